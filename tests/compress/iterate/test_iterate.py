"""Iterative pruning: the curve, the round that is kept, and resumed runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from edgewright.checkpoints.config import read_config
from edgewright.checkpoints.hashing import content_hash, read_provenance
from edgewright.checkpoints.loading import load_model
from edgewright.checkpoints.tensors import read_state
from edgewright.compress.calibration.held_out import hold_out_rows, mean_loss
from edgewright.compress.distill.lora import LoraOptions
from edgewright.compress.distill.options import Stage
from edgewright.compress.distill.runner import distill
from edgewright.compress.iterate import runner as module
from edgewright.compress.iterate.options import IterateOptions, RecoverOptions
from edgewright.compress.iterate.runner import Point, iterate
from edgewright.compress.prune.options import PruneOptions
from edgewright.compress.prune.two_four import is_two_four
from edgewright.errors import UsageError
from edgewright.models import architecture
from edgewright.steps.context import StepContext

MakeModel = Callable[..., Path]

# Which round is kept


@pytest.mark.parametrize(
    ("limit", "kept", "why"),
    [
        (None, 4, "the last: no limit"),
        (0.2, 3, "no more than 0.2"),
        (0.04, 1, "no more than 0.04"),
        (0.001, 1, "no round stayed within"),
    ],
)
def test_the_smallest_within_the_limit_is_kept(limit: float | None, kept: int, why: str) -> None:
    losses = [1.0, 1.02, 1.3, 1.15, 1.9]
    points = [Point(i, 1000 - 100 * i, 8, 512, 3, loss) for i, loss in enumerate(losses)]
    best, said = module._best(points, limit)
    assert best.round == kept
    assert why in said


# The step


def options(text_file: Path, **changes: Any) -> IterateOptions:
    recover: dict[str, Any] = {
        "data": f"text:{text_file}",
        "seq_len": 24,
        "batch_size": 4,
        "bf16": False,
        "stages": (Stage(loss="hidden", steps=4, lr=3e-3), Stage(loss="logits", steps=8, lr=3e-3)),
    }
    recover |= changes.pop("recover", {})
    cut = changes.pop("prune", {"heads": 0.25, "ffn": 0.5})
    return IterateOptions(
        prune=PruneOptions(**cut), recover=RecoverOptions(**recover), held_out_rows=8, **changes
    )


@pytest.fixture(scope="module")
def finished(
    make_model: MakeModel,
    context: StepContext,
    text_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    """The result of an uninterrupted run, and its directory."""
    out = tmp_path_factory.mktemp("iterate") / "out"
    return iterate(
        options(text_file, rounds=2),
        make_model("llama"),
        out,
        replace(context, depends_on={"data": "f"}),
    ), out


def test_rounds_shrink_the_model_and_the_curve_is_recorded(
    finished: Any, make_model: MakeModel
) -> None:
    result, out = finished
    curve = result.details["curve"]
    assert [point["round"] for point in curve] == [0, 1, 2]
    assert [(point["heads"], point["ffn"]) for point in curve] == [(8, 512), (6, 384), (6, 256)]
    state, config = read_state(out), read_config(out)
    assert (
        sum(t.numel() for t in state.values())
        == curve[2]["parameters"]
        < curve[1]["parameters"]
        < curve[0]["parameters"]
    )
    assert config["intermediate_size"] == 256
    assert result.details["kept_round"] == 2
    assert list(result.details["loss"]) == [
        "round 1 hidden",
        "round 1 logits",
        "round 2 hidden",
        "round 2 logits",
    ]
    assert sum("held-out loss" in note for note in result.notes) == 1 + 3
    written = read_provenance(out)
    assert (written["step"], written["kept_round"], written["teacher"]) == (
        "iterate",
        2,
        content_hash(make_model("llama")),
    )
    assert written["curve"] == curve
    assert {p.name for p in out.parent.iterdir()} == {"out"}
    load_model(out)


def test_the_curve_is_the_loss_of_what_was_written(
    finished: Any, make_model: MakeModel, context: StepContext, text_file: Path
) -> None:
    result, out = finished
    held = hold_out_rows(
        f"text:{text_file}", 8, f"text:{text_file}", 24, context.calibration, make_model("llama")
    )
    assert mean_loss(held.rows, load_model(out)) == pytest.approx(
        result.details["curve"][2]["loss"], rel=1e-6
    )
    assert mean_loss(held.rows, load_model(make_model("llama"))) == pytest.approx(
        result.details["curve"][0]["loss"], rel=1e-6
    )


def test_an_interrupted_run_resumes_at_its_round(
    finished: Any,
    make_model: MakeModel,
    context: StepContext,
    text_file: Path,
    tmp_path: Path,
    monkeypatch: Any,
    capsys: Any,
) -> None:
    source = make_model("llama")
    out = tmp_path / "out"
    calls = []

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments[2].name)
        if calls == ["round-1", "round-2"]:
            raise KeyboardInterrupt
        return distill(*arguments)

    monkeypatch.setattr(module, "distill", interrupted)
    with pytest.raises(KeyboardInterrupt):
        iterate(
            options(text_file, rounds=2), source, out, replace(context, depends_on={"data": "f"})
        )
    assert not out.exists()
    assert {p.name for p in (tmp_path / ".out.rounds").iterdir()} >= {
        "round-1",
        "round-1.json",
        "step.json",
    }
    result = iterate(
        options(text_file, rounds=2), source, out, replace(context, depends_on={"data": "f"})
    )
    assert calls == ["round-1", "round-2", "round-2"]
    assert "round 1: reused" in capsys.readouterr().err
    assert content_hash(out) == content_hash(finished[1])
    assert (result.notes, result.details) == (finished[0].notes, finished[0].details)
    assert {p.name for p in tmp_path.iterdir()} == {"out"}


@pytest.mark.parametrize("spoil", ["fingerprint", "weights", "none"])
def test_rounds_of_another_step_or_altered_ones_are_not_reused(
    spoil: str,
    make_model: MakeModel,
    context: StepContext,
    text_file: Path,
    tmp_path: Path,
    monkeypatch: Any,
) -> None:
    source = make_model("llama")
    place = tmp_path / ".out.rounds"
    calls = []

    def counted(*arguments: Any) -> Any:
        calls.append(arguments[2].name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return distill(*arguments)

    monkeypatch.setattr(module, "distill", counted)
    few = options(text_file, rounds=2, recover={"stages": (Stage(loss="logits", steps=2),)})
    first = replace(context, depends_on={} if spoil == "none" else {"data": "f"})
    with pytest.raises(KeyboardInterrupt):
        iterate(few, source, tmp_path / "out", first)
    if spoil == "weights":
        with (place / "round-1" / "config.json").open("a") as handle:
            handle.write("\n")
    iterate(
        few,
        source,
        tmp_path / "out",
        replace(context, depends_on={"data": "g"}) if spoil == "fingerprint" else first,
    )
    assert calls == ["round-1", "round-2", "round-1", "round-2"]
    assert {p.name for p in tmp_path.iterdir()} == {"out"}


def test_without_a_teacher_with_adapters_and_a_limit_that_nothing_meets(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    recover = {
        "teacher": None,
        "lora": LoraOptions(r=4),
        "stages": (Stage(loss="labels", steps=3, lr=1e-3),),
    }
    asked = options(text_file, rounds=3, recover=recover, prune={"ffn": 0.5}, max_loss_increase=0.0)
    result = iterate(asked, make_model("llama"), tmp_path / "out", context)
    curve = result.details["curve"]
    assert [point["ffn"] for point in curve] == [512, 384, 256]
    assert "3 rounds were asked for; whole heads, neurons and layers allow 2" in result.notes
    best = min(curve[1:], key=lambda point: point["loss"])
    if best["loss"] > curve[0]["loss"]:
        assert result.notes[0].startswith("no round stayed within 0 of the uncut model's loss")
    assert result.details["kept_round"] == best["round"]
    assert read_config(tmp_path / "out")["intermediate_size"] == best["ffn"]


def test_the_last_round_is_sparse_when_asked(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    asked = options(
        text_file,
        rounds=2,
        prune={"ffn": 0.5, "sparsity": "2:4"},
        recover={"stages": (Stage(loss="logits", steps=3),)},
    )
    iterate(asked, make_model("llama"), tmp_path / "out", context)
    config, state = read_config(tmp_path / "out"), read_state(tmp_path / "out")
    assert all(is_two_four(state[f"{name}.weight"]) for name in architecture(config).linears())
    assert read_provenance(tmp_path / "out")["sparsity"] == "2:4"


def test_a_refused_run_leaves_no_files(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    source = make_model("llama")
    foreign = tmp_path / "foreign"
    with pytest.raises(UsageError, match="nothing to prune"):
        iterate(options(text_file, prune={}), source, tmp_path / "out", context)
    with pytest.raises(UsageError, match="lora targets c_attn"):
        iterate(
            options(text_file, recover={"lora": LoraOptions(targets=("c_attn",))}),
            source,
            tmp_path / "out",
            context,
        )
    assert not list(tmp_path.iterdir())
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="was not written by edgewright"):
        iterate(options(text_file), source, foreign, context)
    assert [p.name for p in tmp_path.iterdir()] == ["foreign"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recover": {"student": "small"}}, "the student is the model that each round prunes"),
        (
            {"recover": {"lora": {"r": 4}}, "prune": {"sparsity": "2:4"}},
            "adapters cannot be merged into a sparse model",
        ),
        ({"rounds": 0}, "greater than 0"),
        ({"prune": {"heads": 1.5}}, "less than 1"),
    ],
)
def test_options_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        IterateOptions.model_validate({"prune": {"ffn": 0.5}} | changes)
