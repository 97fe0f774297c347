"""Iterative pruning: how a cut is spread, held-out rows, the round kept, and killed runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError
from torch.nn import functional as F

from edgewright.checkpoints.files import content_hash, read_config, read_provenance, read_state
from edgewright.checkpoints.loading import load_model
from edgewright.compress.calibration.held_out import hold_out_rows, mean_loss
from edgewright.compress.distill.lora import LoraOptions
from edgewright.compress.distill.options import DistillOptions, Stage
from edgewright.compress.distill.runner import distill
from edgewright.compress.iterate import runner as module
from edgewright.compress.iterate.options import IterateOptions, RecoverOptions
from edgewright.compress.iterate.runner import Point, iterate
from edgewright.compress.prune.runner import PruneOptions
from edgewright.compress.prune.schedule import spread
from edgewright.compress.prune.sizes import sizes_after
from edgewright.compress.prune.two_four import is_two_four
from edgewright.errors import Refused, UsageError
from edgewright.models import architecture
from edgewright.pipeline.plan import plan_recipe
from edgewright.pipeline.recipe_file import load_recipe
from edgewright.pipeline.run import run_recipe
from edgewright.steps.context import CalibrationData, StepContext

MakeModel = Callable[..., Path]

# How a cut is spread

QWEN_7B = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
}
LLAMA_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
GEMMA_1B = {
    "model_type": "gemma3_text",
    "hidden_size": 1152,
    "intermediate_size": 6912,
    "num_hidden_layers": 26,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "vocab_size": 262144,
}


def walk(config: dict[str, Any], cuts: list[PruneOptions]) -> list[tuple[int, int, int]]:
    """Heads, neurons and layers after every cut, by the functions of the prune step."""
    sizes = []
    for cut in cuts:
        model = architecture(config)
        after = sizes_after(cut, model)
        heads, neurons = after["heads"], after["ffn"]
        layers = len(model.layers) - cut.layers
        config = {**config, "num_attention_heads": heads, "num_key_value_heads": after["kv_heads"]}
        config |= {"head_dim": model.attention_sizes.head_dim, "intermediate_size": neurons}
        config["num_hidden_layers"] = layers
        sizes.append((heads, neurons, layers))
    return sizes


@pytest.mark.parametrize("rounds", [1, 2, 3, 5, 12])
@pytest.mark.parametrize(
    "cut", [{"heads": 0.5}, {"ffn": 0.3}, {"layers": 5}, {"heads": 0.25, "ffn": 0.75, "layers": 8}]
)
@pytest.mark.parametrize(
    "config", [QWEN_7B, LLAMA_8B, GEMMA_1B], ids=lambda config: config["model_type"]
)
def test_the_last_round_ends_where_one_cut_would(
    config: dict[str, Any], cut: dict[str, Any], rounds: int
) -> None:
    once = walk(config, [PruneOptions(**cut)])[-1]
    cuts = spread(PruneOptions(**cut), architecture(config), rounds)
    sizes = walk(config, cuts)
    assert sizes[-1] == once
    assert 1 <= len(cuts) <= rounds
    assert all(cut.removes for cut in cuts)
    assert all(
        b <= a for before, after in pairwise(sizes) for a, b in zip(before, after, strict=True)
    )
    assert len(set(sizes)) == len(sizes)


def test_shares_are_geometric() -> None:
    sizes = walk(LLAMA_8B, spread(PruneOptions(ffn=0.75, layers=6), architecture(LLAMA_8B), 4))
    assert sizes == [(32, 10112, 30), (32, 7168, 29), (32, 5120, 28), (32, 3584, 26)]


def test_sparsity_comes_last_and_alone() -> None:
    cuts = spread(PruneOptions(ffn=0.5, sparsity="2:4"), architecture(LLAMA_8B), 3)
    assert [cut.sparsity for cut in cuts] == [None, None, "2:4"]
    assert [
        cut.sparsity for cut in spread(PruneOptions(sparsity="2:4"), architecture(LLAMA_8B), 3)
    ] == ["2:4"]


def test_what_cannot_be_reached_is_said_at_once() -> None:
    with pytest.raises(UsageError, match="a model of 32 layers can lose 0 to 30"):
        spread(PruneOptions(layers=31), architecture(LLAMA_8B), 40)
    one = {**LLAMA_8B, "num_key_value_heads": 1}
    with pytest.raises(Refused, match="the only key/value head"):
        spread(PruneOptions(kv_heads=0.5), architecture(one), 3)
    with pytest.raises(UsageError, match="no final size"):
        spread(PruneOptions(heads_threshold=0.5), architecture(LLAMA_8B), 3)


def test_groups_go_in_rounds_too_and_merging_comes_first() -> None:
    whole = {**LLAMA_8B, "num_key_value_heads": 32}
    cuts = spread(PruneOptions(merge_kv=8, kv_heads=0.5, heads=0.5), architecture(whole), 2)
    assert [cut.merge_kv for cut in cuts] == [8, None]
    assert walk(LLAMA_8B, cuts)[-1][0] == 8


# What is measured on


def test_rows_set_aside_are_neither_learnt_nor_calibrated_on(
    make_model: MakeModel, text_file: Path, monkeypatch: Any
) -> None:
    model, source = make_model("llama"), f"text:{text_file}"
    held = hold_out_rows(
        source, 8, source, 24, CalibrationData(source, samples=1000, seq_len=32), model
    )
    assert (len(held.rows), held.skip) == (8, 8)
    whole = CalibrationData(source, 10_000, 24).rows(model, 0)
    assert all(torch.equal(a, b) for a, b in zip(held.rows, whole[-8:], strict=True))
    stream = torch.cat([row[0] for row in whole]).tolist()
    calibrated = torch.cat([row[0] for row in held.calibration.rows(model, 0)]).tolist()
    assert calibrated == stream[: len(calibrated)]
    assert len(stream) - 8 * 24 - 32 < len(calibrated) <= len(stream) - 8 * 24
    seen: list[list[int]] = []

    def watch(_objective: Any, rows: Any, *_: Any) -> list[float]:
        seen.extend(next(rows)[0].tolist() for _ in range(2 * (len(whole) - 8)))
        return [1.0]

    monkeypatch.setattr("edgewright.compress.distill.runner.train", watch)
    stages = (Stage(loss="labels", steps=len(whole) - 8),)
    options = DistillOptions(
        teacher=None, data=source, seq_len=24, batch_size=2, hold_out=held.skip, stages=stages
    )
    distill(options, model, text_file.parent / "learnt", StepContext())
    assert sorted(seen) == sorted(2 * [row[0].tolist() for row in whole[:-8]])


def test_other_sources_to_measure_on(
    make_model: MakeModel, text_file: Path, tmp_path: Path
) -> None:
    model, calibration = (
        make_model("llama"),
        CalibrationData(f"text:{text_file}", samples=6, seq_len=32),
    )
    builtin = hold_out_rows("builtin:reasoning", 5, f"text:{text_file}", 64, calibration, model)
    assert (len(builtin.rows), builtin.skip, builtin.calibration) == (5, 0, calibration)
    other = tmp_path / "other.txt"
    other.write_text("A different story, about a lighthouse and its keeper.\n" * 12)
    apart = hold_out_rows(f"text:{other}", 1000, f"text:{text_file}", 24, calibration, model)
    assert apart.skip == 0
    assert apart.calibration == calibration
    assert len(apart.rows) > 5
    other.write_text("Short.\n" * 3)
    with pytest.raises(UsageError, match="too few to set some of them aside") as caught:
        hold_out_rows(f"text:{other}", 8, f"text:{other}", 8, calibration, model)
    assert "held_out" in caught.value.hint
    with pytest.raises(UsageError, match="would reach into what is set aside"):
        hold_out_rows(
            f"text:{text_file}",
            8,
            f"text:{text_file}",
            24,
            replace(calibration, seq_len=4000),
            model,
        )


def test_loss_is_the_mean_over_all_scored_tokens(make_model: MakeModel) -> None:
    model = load_model(make_model("qwen2"))
    rows = [torch.arange(20).view(2, 10) * 7 % 500, torch.arange(50).view(2, 25) * 3 % 500]
    rows[0][1], rows[1][1] = rows[0][0], rows[1][0]
    rows[1][1, :20] = -100
    total, tokens = 0.0, 0
    with torch.no_grad():
        for row in rows:
            logits = model(row[:1]).logits[0]
            total += sum(
                float(F.cross_entropy(logits[i], row[1, i + 1]))
                for i in range(row.shape[1] - 1)
                if row[1, i + 1] >= 0
            )
            tokens += sum(int(label) >= 0 for label in row[1, 1:])
    assert tokens == 9 + 5
    assert mean_loss(rows, model) == pytest.approx(total / tokens, rel=1e-5)


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
    """The result of a run that nothing disturbed, and its directory."""
    out = tmp_path_factory.mktemp("iterate") / "out"
    return iterate(
        options(text_file, rounds=2),
        make_model("llama"),
        out,
        replace(context, depends_on={"data": "f"}),
    ), out


def test_rounds_shrink_the_model_and_the_curve_is_told(
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
    told = read_provenance(out)
    assert (told["step"], told["kept_round"], told["teacher"]) == (
        "iterate",
        2,
        content_hash(make_model("llama")),
    )
    assert told["curve"] == curve
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


def test_an_interrupted_run_goes_on_with_its_round(
    finished: Any,
    make_model: MakeModel,
    context: StepContext,
    text_file: Path,
    tmp_path: Path,
    monkeypatch: Any,
    capsys: Any,
) -> None:
    source, out, calls = make_model("llama"), tmp_path / "out", []

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
    source, place, calls = make_model("llama"), tmp_path / ".out.rounds", []

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


def test_nothing_is_left_of_what_cannot_be_done(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    source, foreign = make_model("llama"), tmp_path / "foreign"
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


# In a recipe, and on the command line


def recipe_file(folder: Path, model: Path, text_file: Path) -> Path:
    step = {
        "kind": "iterate",
        "rounds": 2,
        "prune": {"heads": 0.25, "ffn": 0.5},
        "held_out_rows": 8,
        "max_loss_increase": 5.0,
        "recover": {
            "data": f"text:{text_file}",
            "seq_len": 24,
            "batch_size": 4,
            "stages": [{"loss": "logits", "steps": 3}],
        },
    }
    recipe = {
        "name": "rounds",
        "model": str(model),
        "device": "cpu",
        "steps": [step],
        "calibration": {"source": f"text:{text_file}", "samples": 6, "seq_len": 32},
        "evaluate": {"tasks": [], "perplexity": [f"text:{text_file}"], "windows": 4, "seq_len": 32},
    }
    path = folder / "rounds.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def test_a_recipe_with_rounds(
    make_model: MakeModel, text_file: Path, tmp_path: Path, capsys: Any
) -> None:
    recipe = load_recipe(recipe_file(tmp_path, make_model("llama"), text_file))
    rows = {row["step"]: row for row in plan_recipe(recipe)}
    ledger = run_recipe(recipe, tmp_path / "run")
    entry = next(step for step in ledger["steps"] if step["name"] == "iterate")
    assert (
        rows["iterate"]["parameters"]
        == entry["metrics"]["parameters"]
        == entry["details"]["curve"][-1]["parameters"]
    )
    assert rows["iterate"]["seconds"] > 0
    assert any(note.startswith("round 2: ") for note in entry["notes"])
    assert set(entry["depends_on"]["inputs"]) == {"baseline"}
    assert set(entry["depends_on"]["data"]) == {f"text:{text_file}"}
    run_recipe(recipe, tmp_path / "run")
    assert capsys.readouterr().err.count("reused") == 1


def test_a_wrong_recipe_is_told_where(
    make_model: MakeModel, text_file: Path, tmp_path: Path
) -> None:
    path = recipe_file(tmp_path, make_model("llama"), text_file)
    with pytest.raises(
        UsageError, match=r"`steps.0.iterate.recover.stages`: `logits` needs a teacher"
    ):
        load_recipe(path, ["steps.iterate.recover.teacher=none"])
    with pytest.raises(
        UsageError,
        match=r"`steps.0.iterate.recover.student`: the student is the model that each round prunes",
    ):
        load_recipe(path, ["steps.iterate.recover.student=baseline"])


@pytest.mark.slow
def test_kill_9_between_rounds_then_the_same_command(
    make_model: MakeModel, text_file: Path, tmp_path: Path
) -> None:
    data = f"text:{text_file}"
    command = [
        sys.executable,
        "-m",
        "edgewright.cli",
        "iterate",
        str(make_model("llama")),
        "--rounds",
        "3",
        "--heads",
        "0.25",
        "--ffn",
        "0.75",
        "--layers",
        "1",
        "--data",
        data,
        "--calibration",
        data,
        "--samples",
        "4",
        "--seq-len",
        "24",
        "--batch-size",
        "4",
        "--hidden-steps",
        "3",
        "--logit-steps",
        "5",
        "--held-out-rows",
        "8",
        "--device",
        "cpu",
        "--json",
        "--out",
    ]
    quiet: dict[str, Any] = {
        "cwd": tmp_path,
        "env": {**os.environ, "OMP_NUM_THREADS": "1"},
        "text": True,
    }
    whole = subprocess.run([*command, "whole"], capture_output=True, check=True, **quiet)
    assert len(json.loads(whole.stdout)["details"]["curve"]) == 4
    killed = subprocess.Popen(
        [*command, "killed"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        **quiet,
    )
    deadline = time.monotonic() + 600
    while not (tmp_path / ".killed.rounds" / "cut-2").exists():
        assert killed.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "the second round never began"
        time.sleep(0.005)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed").exists()
    again = subprocess.run([*command, "killed"], capture_output=True, check=True, **quiet)
    assert "round 1: reused" in again.stderr
    assert "round 2: reused" not in again.stderr
    one, two = (read_state(tmp_path / name) for name in ("whole", "killed"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert content_hash(tmp_path / "whole", skip="edgewright.json") == content_hash(
        tmp_path / "killed", skip="edgewright.json"
    )
    assert {p.name for p in tmp_path.iterdir()} == {"whole", "killed"}
