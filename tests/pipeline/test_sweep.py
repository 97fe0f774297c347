"""Sweeps: shared steps, resuming after an interruption, and a choice from the Pareto front."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgewright.benchmarks.report.pareto import nearest_to_ideal, pareto_optimal
from edgewright.errors import EdgewrightError, UsageError
from edgewright.pipeline import sweep as module
from edgewright.pipeline.sweep import run_sweep
from edgewright.pipeline.sweep_objectives import Objective
from edgewright.pipeline.sweep_options import SweepOptions, parse_vary

RECIPE = {
    "name": "tiny",
    "device": "cpu",
    "calibration": {"source": "builtin:reasoning", "samples": 4, "seq_len": 64},
    "evaluate": {"perplexity": ["builtin:reasoning"], "windows": 4, "seq_len": 96, "latency": None},
    "steps": [
        {"kind": "prune", "heads": 0.25, "criterion": "norm"},
        {"kind": "quantize", "method": "rtn"},
    ],
}
VARY = {"steps.prune.heads": [0.25, 0.5], "steps.quantize.group_size": [64, 128]}


def test_the_pareto_front_holds_what_nothing_beats() -> None:
    points = [(0.9, -2.0), (0.9, -3.0), (0.5, -1.0), (0.95, -9.0), (0.4, -1.0), (0.9, -2.0)]
    assert pareto_optimal(points) == [True, False, True, True, False, True]
    assert nearest_to_ideal([(0.9, -2.0), (0.5, -1.0), (0.95, -9.0)]) == 0
    assert nearest_to_ideal([(1.0,), (1.0,)]) == 0


def test_objectives_know_which_way_is_better() -> None:
    texts = [
        "size_bytes",
        "accuracy/x",
        "perplexity/wiki",
        "predicted/ttft_ms",
        "decode_tok_s/p50",
        "device/gpu_mhz:min",
    ]
    assert [Objective.parse(text).less for text in texts] == [True, False, True, True, False, True]
    assert Objective.parse("device/gpu_mhz:max").metric == "device/gpu_mhz"
    with pytest.raises(UsageError, match="no such metric `odd`"):
        Objective.parse("odd:min")


@pytest.mark.parametrize(
    "texts", [[], ["steps.prune.heads"], ["=1,2"], ["a=1", "a=2"], ["a=[1"], ["a=2020-01-01"]]
)
def test_what_is_varied_is_checked(texts: list[str]) -> None:
    with pytest.raises(UsageError):
        parse_vary(texts)


@pytest.fixture(scope="module")
def recipe_file(make_model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sweep") / "tiny.yaml"
    path.write_text(yaml.safe_dump(RECIPE | {"model": str(make_model("llama"))}))
    return path


@pytest.fixture(scope="module")
def interrupted(
    recipe_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, Any]]]:
    """A sweep of four trials, stopped after the first step of the third; and the finished runs."""
    out = tmp_path_factory.mktemp("out") / "sweep"
    real = module.run_recipe
    made = []

    def stopping(recipe: Any, folder: Path, *args: Any, **options: Any) -> Any:
        if len(made) == 2:
            half = recipe.model_copy(update={"steps": recipe.steps[:1]})
            real(half, folder, *args, **options)
            raise KeyboardInterrupt
        made.append({"folder": folder.name, "ledger": real(recipe, folder, *args, **options)})
        return made[-1]["ledger"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "run_recipe", stopping)
        with pytest.raises(KeyboardInterrupt):
            run_sweep(recipe_file, [], SweepOptions(vary=VARY), out)
    return out, made


def test_an_interrupted_sweep_resumes_and_loses_nothing(
    interrupted, recipe_file: Path, tmp_path: Path, capsys
) -> None:
    stopped, made = interrupted
    out = Path(shutil.copytree(stopped, tmp_path / "sweep"))
    before = {
        p: p.stat().st_mtime_ns
        for p in out.rglob("ledger.json")
        if p.parent.name in {one["folder"] for one in made}
    }
    assert len(before) == 2
    capsys.readouterr()
    found = run_sweep(recipe_file, [], SweepOptions(vary=VARY), out)
    output = " ".join(capsys.readouterr().err.split())
    assert output.count("trial ") == 2, "two of the four were finished before"
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert "reused" in output, "the first step of the third trial was finished"
    assert "taken over" in output
    combinations = {tuple(trial["parameters"].values()) for trial in found["trials"]}
    assert (
        combinations == {(heads, group) for heads in (0.25, 0.5) for group in (64, 128)}
        and len(found["trials"]) == 4
    )
    assert all(trial["values"]["perplexity/reasoning"] > 1 for trial in found["trials"])
    chosen = found["trials"][found["chosen"]]
    assert chosen["front"]
    for other in found["trials"]:
        assert not all(other["values"][m] < chosen["values"][m] for m in chosen["values"])
    assert json.loads((out / "sweep.json").read_text()) == found
    page = (out / "report.html").read_text()
    assert (
        "Sweep of tiny" in page
        and "chosen" in page
        and "http://" not in page.replace("http://www.w3.org", "")
    )
    assert (out / "report.md").read_text().count("\n| ") == 2 + 4
    assert run_sweep(recipe_file, [], SweepOptions(vary=VARY), out) == found, (
        "nothing is left to try"
    )


def test_trials_share_the_steps_that_they_have_in_common(interrupted) -> None:
    out, made = interrupted
    first, second = (one["ledger"] for one in made)
    assert [s["seconds"] for s in first["steps"][:2]] == [
        s["seconds"] for s in second["steps"][:2]
    ], "taken over, with its time"
    assert first["steps"][2]["fingerprint"] != second["steps"][2]["fingerprint"]
    weights = [out / "trials" / one["folder"] / "prune" / "model.safetensors" for one in made]
    assert weights[0].stat().st_ino == weights[1].stat().st_ino, "linked, not copied"
    assert all(
        (out / "trials" / one["folder"] / "samples" / "prune.json").is_file() for one in made
    )


def test_another_question_is_refused_in_the_same_place(interrupted, recipe_file: Path) -> None:
    with pytest.raises(UsageError, match=r"differs in: vary\.steps\.prune\.heads"):
        run_sweep(
            recipe_file, [], SweepOptions(vary=VARY | {"steps.prune.heads": [0.5]}), interrupted[0]
        )


def test_many_combinations_are_sampled_and_what_fails_is_a_result(
    recipe_file: Path, tmp_path: Path
) -> None:
    """Groups of 96 do not divide the model's widths: the step refuses, the sweep continues."""
    vary = {"steps.quantize.group_size": [64, 96, 128], "steps.quantize.bits": [4, 8]}
    found = run_sweep(recipe_file, [], SweepOptions(vary=vary, trials=4), tmp_path / "sweep")
    assert len({str(trial["parameters"]) for trial in found["trials"]}) == len(found["trials"]) == 4
    for trial in found["trials"]:
        assert (
            bool(trial["reason"])
            == (not trial["values"])
            == (trial["parameters"]["steps.quantize.group_size"] == 96)
        )


def test_what_failed_is_tried_again_by_the_next_command(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure may be the machine's: with more memory the same command succeeds."""
    asked = []

    def too_small(_recipe: Any, folder: Path, *_args: Any, **_options: Any) -> Any:
        asked.append(folder.name)
        raise EdgewrightError("too little memory", "use a machine with more")

    options = SweepOptions(vary={"steps.quantize.group_size": [64, 128]})
    with monkeypatch.context() as patch:
        patch.setattr(module, "run_recipe", too_small)
        with pytest.raises(EdgewrightError, match="none of 2 trials succeeded"):
            run_sweep(recipe_file, [], options, tmp_path / "sweep")
    assert len(asked) == 2
    found = run_sweep(recipe_file, [], options, tmp_path / "sweep")
    assert [bool(trial["values"]) for trial in found["trials"]] == [True, True]
    fresh = run_sweep(recipe_file, [], options, tmp_path / "other")
    assert [one["parameters"] for one in found["trials"]] == [
        one["parameters"] for one in fresh["trials"]
    ]


def test_an_altered_result_is_made_again(recipe_file: Path, tmp_path: Path) -> None:
    options = SweepOptions(vary={"steps.quantize.group_size": [64, 128]})
    out = tmp_path / "sweep"
    found = run_sweep(recipe_file, [], options, out)
    files = [*out.glob("trials/*/quantize/config.json"), *out.glob("trials/*/samples/prune.json")]
    assert len(files) == 4
    for file in files:
        content = file.read_bytes()
        file.unlink()  # the file may be linked to that of another trial
        file.write_bytes(content.replace(b"1", b"2", 1))
        assert run_sweep(recipe_file, [], options, out)["trials"] == found["trials"]
        assert file.read_bytes() == content


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--vary", "steps.quantize.bits=4,8,4"], "--vary steps.quantize.bits: 4 and 4 make"),
        (["--vary", "steps.prune.heads=0.5,0.25,5e-1"], "0.5 and 0.5 make the same recipe"),
        (["--vary", "seed=8,'8'"], "8 and 8 make the same recipe"),
        (["--trials", "0"], "--trials"),
        (["--trials", "-1"], "--trials"),
        (["--budget", "0"], "--budget"),
        (["--budget", "-1"], "--budget"),
        (["--budget", "nan"], "--budget"),
        (["--objective", "accuracy/gsm8k"], "measures nothing and not `gsm8k`"),
        (["--objective", "decode_tok_s/p50"], "`evaluate.latency` is null"),
        (["--objective", "peak_rss_bytes"], "`evaluate.latency` is null"),
        (["--objective", "predicted/ttft_ms"], "the recipe has no `target`"),
        (["--objective", "device/power_w"], "only `deploy` measures it"),
        (["--objective", "output_tok_s/rate2"], "only `bench` of a server measures it"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_trial(
    cli, recipe_file: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    more = [] if "--vary" in arguments else ["--vary", "steps.quantize.bits=4,8"]
    code, _, err = cli("sweep", recipe_file, *more, *arguments, "--out", tmp_path / "s")
    assert code == 2 and words in err, err
    assert not (tmp_path / "s").exists()


def test_the_command_line_and_its_mistakes(cli, recipe_file: Path, tmp_path: Path) -> None:
    code, _, err = cli(
        "sweep", recipe_file, "--vary", "steps.quantize.bits=4,5", "--out", tmp_path / "s"
    )
    assert code == 2 and "bits" in err and not (tmp_path / "s").exists(), (
        "a value that no recipe takes is refused before any work"
    )
    code, _, err = cli(
        "sweep",
        recipe_file,
        "--vary",
        "steps.prune.heads=0.25",
        "--objective",
        "speed",
        "--out",
        tmp_path / "t",
    )
    assert code == 2 and "no such metric" in err and "size_bytes" in err
    code, out, _ = cli(
        "sweep",
        recipe_file,
        "--vary",
        "steps.prune.heads=0.25",
        "--objective",
        "size_bytes",
        "--out",
        tmp_path / "u",
        "--budget",
        5,
        "--json",
    )
    assert code == 0 and json.loads(out)["chosen"] == 0
