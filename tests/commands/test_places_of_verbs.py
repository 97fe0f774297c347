"""Every writing verb checks its places and locks them before it works."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgewright.checkpoints.directories import atomic_directory
from edgewright.checkpoints.hashing import PROVENANCE
from edgewright.checkpoints.locks import locked
from edgewright.commands import compress, deliver, measure, project
from edgewright.commands.options import Parameter
from edgewright.commands.verb import Verb
from edgewright.errors import EdgewrightError, UsageError
from edgewright.pipeline.recipe_file import builtin_recipe, load_recipe
from edgewright.steps.places import Writes

VERBS = {
    found.name: found
    for module in (compress, deliver, measure, project)
    for found in vars(module).values()
    if isinstance(found, Verb)
}


MODEL = "in/model"
TEXT = "text:in/data.txt"
RECIPE = str(builtin_recipe("demo"))
WRITING: dict[str, tuple[list[Any], dict[str, Any], dict[str, str]]] = {
    "prune": ([MODEL], {"heads": 0.5, "calibration": TEXT}, {"out": "directory"}),
    "traces": ([MODEL], {"prompts": "jsonl:in/data.txt"}, {"out": "file"}),
    "distill": (
        [MODEL],
        {
            "teacher": "in/teacher",
            "data": TEXT,
            "qat": 4,
            "scales_from": "in/quantized",
        },
        {"out": "directory"},
    ),
    "iterate": (
        [MODEL],
        {"ffn": 0.5, "teacher": "in/teacher", "data": TEXT, "held_out": "text:in/held.txt"},
        {"out": "directory"},
    ),
    "quantize": ([MODEL], {"calibration": TEXT}, {"out": "directory"}),
    "export": ([MODEL], {"calibration": TEXT}, {"out": "directory"}),
    "bench": (
        [MODEL],
        {
            "perplexity": [TEXT],
            "tasks": "qa:in/rows.jsonl",
            "reference": "in/teacher",
            "against": "in/quantized",
            "tokenizer": "in/tokenizer",
        },
        {"save": "file"},
    ),
    "gate": (
        ["in/new.json"],
        {"baseline": "in/old.json", "policy": "in/gate.yaml"},
        {"junit": "file", "markdown": "file", "badge": "file"},
    ),
    "compare": ([["in/run", "in/other:step"]], {}, {"html": "file", "markdown": "file"}),
    "deploy": (
        ["in/artifact"],
        {
            "target": "in/target.yaml",
            "reference": "in/teacher",
            "tasks": "qa:in/rows.jsonl",
            "policy": "in/gate.yaml",
            "baseline": "in/old.json",
        },
        {"out": "directory"},
    ),
    "sweep": (
        [RECIPE],
        {"vary": ["model=in/model,in/teacher"], "set": [f"calibration.source={TEXT}"]},
        {"out": "run"},
    ),
    "init": (
        [],
        {"model": MODEL, "target": "in/target.yaml", "goal": "small", "data": TEXT},
        {"out": "file"},
    ),
    "run": ([RECIPE], {"set": ["model=in/model", f"calibration.source={TEXT}"]}, {"out": "run"}),
}
"""What is read, and the options that write, by verb."""
FILES = ("data.txt", "held.txt", "rows.jsonl", "new.json", "old.json", "gate.yaml", "target.yaml")
FOLDERS = ("model", "teacher", "quantized", "artifact", "run", "other", "tokenizer")
OUTPUTS = [(verb, option) for verb, (_, _, written) in WRITING.items() for option in written]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for folder in FOLDERS:
        (tmp_path / "in" / folder).mkdir(parents=True)
    for file in FILES:
        (tmp_path / "in" / file).write_text("{}")
    return tmp_path


@contextmanager
def watched(verb: Verb) -> Iterator[list[str]]:
    """The verb with its work left out: only places are checked and locked."""
    worked: list[str] = []
    before = verb.function

    @functools.wraps(before)
    def function(**values: Any) -> None:
        worked.append(verb.name)

    verb.function = function
    try:
        yield worked
    finally:
        verb.function = before


def call(name: str, **outputs: str) -> list[str]:
    arguments, options, _ = WRITING[name]
    with watched(VERBS[name]) as worked:
        VERBS[name].call(*arguments, **{**options, **outputs})
    return worked


def test_every_writing_verb_is_tried() -> None:
    writing = {
        name
        for name, verb in VERBS.items()
        if any(isinstance(one, Writes) for option in verb.options for one in _metadata(option))
    }
    assert writing == {*WRITING, "demo"}  # the demo reads what is built in


def _metadata(option: Parameter) -> list[Any]:
    model, name = option.field
    return list(model.model_fields[name].metadata)


@pytest.mark.parametrize(("verb", "option"), OUTPUTS)
def test_an_output_apart_from_all_inputs_is_accepted(verb: str, option: str, work: Path) -> None:
    assert call(verb, **{option: "out"}) == [verb]
    assert not list(work.glob(".*"))


@pytest.mark.parametrize(("verb", "option"), OUTPUTS)
def test_an_output_that_overlaps_with_any_input_is_refused(
    verb: str, option: str, work: Path
) -> None:
    before = sorted(work.rglob("*"))
    arguments, options, _ = WRITING[verb]
    texts = [*arguments, *options.values()]
    given = {word for text in texts for word in _paths(text)}
    assert given
    (work / "link").symlink_to("in")
    for path in given:
        inside = [f"{path}/new", f"link/{Path(path).name}/new"] if Path(path).is_dir() else []
        for out in (path, "in", f"link/{Path(path).name}", *inside):
            with pytest.raises(UsageError):
                call(verb, **{option: out})
    (work / "link").unlink()
    assert sorted(work.rglob("*")) == before


def _paths(value: Any) -> set[str]:
    """The paths below `in` that a value names."""
    texts = value if isinstance(value, list) else [value]
    return {
        found for text in map(str, texts) for found in re.findall(r"(?<![^=,:])in/[^=,:]+", text)
    }


@pytest.mark.parametrize(("verb", "option"), OUTPUTS)
def test_an_output_that_another_command_writes_is_refused(
    verb: str, option: str, work: Path
) -> None:
    """Whichever verb holds it: one that replaces the place, fills it, or fills what is around."""
    place = work / "runs" / "out"
    place.parent.mkdir()
    filled = () if WRITING[verb][2][option] == "file" else ((place, True),)
    for held, inside in ((place, False), (work / "runs", True), *filled):
        with ExitStack() as stack:
            _in_another_context(stack, held, inside=inside)
            with watched(VERBS[verb]) as worked, pytest.raises(EdgewrightError) as caught:
                arguments, options, _ = WRITING[verb]
                VERBS[verb].call(*arguments, **{**options, option: str(place)})
        assert not worked
        assert "another edgewright run" in str(caught.value)


def _in_another_context(stack: ExitStack, place: Path, *, inside: bool) -> None:
    """Hold a lock as another command would: this one does not know that it has it."""
    from edgewright.checkpoints import locks

    stack.enter_context(locked(place, inside=inside))
    token = locks._held.set(frozenset())
    stack.callback(locks._held.reset, token)


@pytest.mark.parametrize("verb", [name for name in WRITING if name not in ("run", "sweep")])
def test_an_input_that_another_command_replaces_is_refused(verb: str, work: Path) -> None:
    arguments, options, outputs = WRITING[verb]
    path = min(_paths(arguments[0] if arguments else options["model"]))
    option = next(iter(outputs))
    with ExitStack() as stack:
        _in_another_context(stack, work / path, inside=False)
        with pytest.raises(EdgewrightError, match="is writing it"):
            call(verb, **{option: "out"})


@pytest.mark.parametrize(("verb", "option"), OUTPUTS)
def test_what_somebody_else_wrote_is_refused(verb: str, option: str, work: Path) -> None:
    kind = WRITING[verb][2][option]
    (work / "out.txt").write_text("years of work")
    (work / "folder").mkdir()
    (work / "folder" / "thesis.tex").write_text("years of work")
    for out in ("out.txt", "folder"):
        with pytest.raises(UsageError):
            call(verb, **{option: out})
    if kind == "directory":
        with atomic_directory(work / "made") as made:
            (made / PROVENANCE).write_text("{}")
        assert call(verb, **{option: "made"}) == [verb]
        (work / "made" / "notes.txt").write_text("mine")
        with pytest.raises(UsageError, match=r"holds notes\.txt"):
            call(verb, **{option: "made"})


BESIDE = [("traces", "out", "out.report.json"), ("bench", "save", "out.answers.jsonl")]


@pytest.mark.parametrize(("verb", "option", "beside"), BESIDE)
def test_what_is_written_beside_a_file_is_no_file_of_the_user(
    verb: str, option: str, beside: str, work: Path
) -> None:
    (work / beside).write_text('{"precious": 1}')
    with pytest.raises(UsageError, match=beside):
        call(verb, **{option: "out.jsonl"})
    (work / beside).unlink()
    (work / beside).symlink_to("in/data.txt")
    with pytest.raises(UsageError, match=beside):
        call(verb, **{option: "out.jsonl"})


@pytest.mark.parametrize(("verb", "option", "name"), BESIDE)
def test_files_that_differ_in_their_ending_share_none_beside_them(
    verb: str, option: str, name: str, work: Path
) -> None:
    (work / name).write_text('{"precious": 1}')
    ending = name.removeprefix("out")
    for other in ("out.v1", "out.txt"):
        assert call(verb, **{option: other}) == [verb], "its own file is not there"
        (work / f"{other}{ending}").write_text('{"precious": 1}')
        with pytest.raises(UsageError, match=re.escape(f"{other}{ending}")):
            call(verb, **{option: other})


def test_nothing_is_locked_where_nothing_is_written(work: Path) -> None:
    with ExitStack() as stack:
        _in_another_context(stack, work / "out", inside=False)
        for name, options in {
            "prune": {"heads": 0.5, "dry_run": True, "out": "out"},
            "bench": {},
        }.items():
            with watched(VERBS[name]) as worked:
                VERBS[name].call(MODEL, **options)
            assert worked


def test_a_baseline_is_read_or_written(work: Path) -> None:
    gate = VERBS["gate"]
    with ExitStack() as stack, watched(gate) as worked:
        gate.call("in/new.json", baseline="in/run:step")
        with pytest.raises(UsageError, match="lies inside"):
            gate.call("in/new.json", baseline="in/run:step", markdown="in/run/gate.md")
        with pytest.raises(UsageError, match="not written by edgewright"):
            gate.call("in/new.json", baseline="in/old.json", update_baseline=True)
        with pytest.raises(UsageError, match="is CANDIDATE"):
            gate.call("in/new.json", baseline="in/new.json", update_baseline=True)
        _in_another_context(stack, work / "base.json", inside=False)
        with pytest.raises(EdgewrightError, match="another edgewright run"):
            gate.call("in/new.json", baseline="base.json", update_baseline=True)
    assert worked == ["gate"]


def test_a_report_is_written_in_no_run_that_goes_on(work: Path) -> None:
    with ExitStack() as stack, watched(VERBS["report"]) as worked:
        VERBS["report"].call("in/run")
        _in_another_context(stack, work / "in" / "run", inside=True)
        with pytest.raises(EdgewrightError, match="another edgewright run"):
            VERBS["report"].call("in/run")
    assert worked == ["report"]


def test_a_run_has_a_directory_of_its_name(work: Path) -> None:
    name = load_recipe(Path(RECIPE)).name
    (work / "runs").mkdir()
    for verb, folder in (("run", name), ("sweep", f"{name}-sweep")):
        with ExitStack() as stack:
            _in_another_context(stack, work / "runs" / folder, inside=True)
            with pytest.raises(EdgewrightError, match="another edgewright run"):
                call(verb)


@pytest.mark.parametrize("name", ["../up", "a/b", ".."])
def test_a_recipe_does_not_choose_a_place_outside(name: str, work: Path) -> None:
    (work / "r.yaml").write_text(f"name: {name}\nsteps: [{{kind: export}}]\n")
    with pytest.raises(UsageError, match="cannot name a directory"):
        VERBS["run"].call("r.yaml")


def test_the_cache_of_the_user_is_no_output(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEWRIGHT_CACHE", "in/model/cache")
    with pytest.raises(UsageError, match="EDGEWRIGHT_CACHE"):
        call("quantize", out="out")
