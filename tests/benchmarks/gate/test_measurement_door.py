"""Measurement files are validated at the door: nothing that no measurement can give is compared."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from file_damage import DAMAGES, flip, flips

from edgewright.benchmarks.gate.gate import check_gate
from edgewright.benchmarks.gate.policy import Limit, Policy
from edgewright.benchmarks.ledger_files import seal_entry, seal_ledger
from edgewright.benchmarks.measurement_files import load_measurement, save_measurement
from edgewright.benchmarks.samples import problem_samples, window_samples
from edgewright.checkpoints.hashing import file_hash
from edgewright.errors import UsageError

WINDOWS = [(30.0, 20), (45.5, 25)]
MEASURED: dict[str, Any] = {
    "name": "int4",
    "metrics": {
        "accuracy/r": 0.75,
        "accuracy/r/n": 4,
        "accuracy/r/stderr": 0.25,
        "perplexity/t": math.exp(75.5 / 45),
        "perplexity/t/n": 45,
        "kl/t": 0.0,
        "size_bytes": 100,
        "lm_eval/arc/acc,none": 0.5,
    },
    "context": {"problems/r": 4, "problems_hash/r": "h", "data_hash/t": "d", "seq_len/t": 32},
    "samples": {
        "accuracy/r": problem_samples([True, True, False, True]),
        "perplexity/t": window_samples(WINDOWS),
    },
}


def changed(**parts: Any) -> dict[str, Any]:
    """The measurement with other entries in its metrics, or other parts."""
    metrics = MEASURED["metrics"] | parts.pop("metrics", {})
    return {**MEASURED, "metrics": metrics, **parts}


def write(file: Path, value: Any) -> str:
    file.write_text(json.dumps(value))
    return str(file)


def test_a_file_written_by_hand_and_one_of_bench(tmp_path: Path) -> None:
    assert load_measurement(write(tmp_path / "hand.json", MEASURED)) == MEASURED
    save_measurement(tmp_path / "own.json", MEASURED)
    assert load_measurement(str(tmp_path / "own.json")) == MEASURED
    broken = changed(metrics={"accuracy/r": math.nan}, samples={})
    found = load_measurement(write(tmp_path / "nan.json", broken))
    assert math.isnan(found["metrics"]["accuracy/r"]), "of a broken model; no limit holds it"


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("accuracy/r", 90.0),
        ("accuracy/r", 1.01),
        ("accuracy/r", -0.1),
        ("accuracy/r", math.inf),
        ("accuracy/r", True),
        ("accuracy/r", "0.9"),
        ("accuracy/r", None),
        ("accuracy/r", {}),
        ("accuracy/r/n", 0),
        ("accuracy/r/n", -4),
        ("accuracy/r/n", 3.5),
        ("accuracy/r/stderr", -0.1),
        ("accuracy_by_byte/r", 75),
        ("perplexity/t", 0.2),
        ("perplexity/t", math.inf),
        ("perplexity/t/n", 0),
        ("kl/t", -0.1),
        ("top1_agreement/t", 99.0),
        ("size_bytes", -5),
        ("size_bytes", -math.inf),
        ("size_bytes", True),
        ("size_bytes", 10**400),
        ("parameters", -1),
        ("ttft_ms/p50", -1.0),
        ("decode_tok_s/p50", math.inf),
        ("peak_rss_bytes", -1),
        ("lm_eval/arc/acc,none", 75.0),
        ("lm_eval/arc/acc_norm,none", -0.5),
        ("lm_eval/arc/exact_match,strict", 75.0),
        ("novel/figure", math.inf),
    ],
)
def test_impossible_figures_are_refused_with_metric_and_file(
    metric: str, value: Any, tmp_path: Path
) -> None:
    file = write(tmp_path / "c.json", changed(metrics={metric: value}, samples={}))
    with pytest.raises(UsageError, match=r"c\.json") as caught:
        load_measurement(file)
    assert metric in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (changed(metrics={"accuracy/r": 1.0}), "give 0.75, and the metric is 1"),
        (changed(metrics={"accuracy/r/n": 5}), "`accuracy/r/n` is 5, and there are 4 samples"),
        (changed(metrics={"perplexity/t/n": 44}), "is 44, and there are 45 samples"),
        (changed(samples={"accuracy/r": {"correct": "11x1"}}), "are damaged"),
        (changed(samples={"perplexity/t": {"nll": ["1.0"], "tokens": [1]}}), "are damaged"),
        (changed(samples={"perplexity/t": {"nll": [1.0], "tokens": [True]}}), "are damaged"),
        (changed(samples={"perplexity/t": {"nll": [1.0], "tokens": [0.5]}}), "are damaged"),
        (changed(samples={"perplexity/t": {"nll": 1.0, "tokens": 1}}), "are damaged"),
        (changed(samples=[1]), "not a measurement: samples"),
        (changed(samples="x"), "not a measurement: samples"),
        (changed(context="x"), "not a measurement: context"),
        (changed(context=None), "not a measurement: context"),
        (changed(name=5), "not a measurement: name"),
        ({**MEASURED, "metrics": 5}, "not a measurement: metrics"),
        ({**MEASURED, "metrics": [["accuracy/r", 1.0]]}, "not a measurement: metrics"),
        ([MEASURED], "not a measurement"),
        (7, "not a measurement"),
    ],
)
def test_files_that_contradict_themselves_or_have_another_shape(
    value: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        load_measurement(write(tmp_path / "c.json", value))
    assert message in str(caught.value)


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name != "directory"])
def test_every_damage_is_one_message(damage: str, tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    save_measurement(file, MEASURED)
    DAMAGES[damage](file)
    with pytest.raises(UsageError, match=r"c\.json: ") as caught:
        load_measurement(str(file))
    assert len(str(caught.value)) < 500


def test_a_flipped_bit_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    save_measurement(file, MEASURED)
    good = file.read_bytes()
    for bit in flips(file, 400):
        flip(file, bit)
        try:
            assert load_measurement(str(file)) == MEASURED, f"bit {bit}"
        except UsageError as error:
            assert str(file) in str(error)
        file.write_bytes(good)


def test_an_edited_file_of_bench_says_how_to_keep_the_change(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    save_measurement(file, MEASURED)
    file.write_text(file.read_text().replace('"size_bytes": 100', '"size_bytes": 10'))
    with pytest.raises(UsageError, match="changed after edgewright wrote it") as caught:
        load_measurement(str(file))
    assert "take its `check` out" in caught.value.hint


def sealed_run(folder: Path) -> Path:
    """A run with one measured step, as a recipe leaves it."""
    (folder / "samples").mkdir(parents=True)
    samples = folder / "samples" / "int4.json"
    samples.write_text(json.dumps(MEASURED["samples"]))
    entry = MEASURED | {
        "kind": "quantize",
        "samples": "samples/int4.json",
        "sample_files": {"samples/int4.json": file_hash(samples)},
    }
    data: dict[str, Any] = {"schema": 1, "steps": [seal_entry(entry)]}
    seal_ledger(data)
    (folder / "ledger.json").write_text(json.dumps(data))
    return folder


@pytest.mark.parametrize("name", ["ledger.json", "samples/int4.json"])
def test_a_changed_run_is_not_judged(name: str, tmp_path: Path) -> None:
    run = sealed_run(tmp_path / "run")
    assert load_measurement(f"{run}:int4") == MEASURED
    file = run / name
    good = file.read_bytes()
    for bit in flips(file, 100):
        flip(file, bit)
        try:
            assert load_measurement(f"{run}:int4") == MEASURED, f"bit {bit}"
        except UsageError as error:
            assert name in str(error)
        file.write_bytes(good)
    for damage in DAMAGES.values():
        damage(file)
        with pytest.raises(UsageError):
            load_measurement(f"{run}:int4")
        if file.is_dir():
            (file / "inside").rmdir()
            file.rmdir()


def test_samples_outside_of_the_run_are_not_read(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "secret.json").write_text("{}")
    step = {**MEASURED, "samples": "../secret.json"}
    (run / "ledger.json").write_text(json.dumps({"schema": 1, "steps": [step, 5, "x"]}))
    with pytest.raises(UsageError, match="outside of the run"):
        load_measurement(f"{run}:int4")


def test_what_a_candidate_lacks_is_never_passed_over() -> None:
    lost = {name: value for name, value in MEASURED["metrics"].items() if "accuracy" not in name}
    candidate = {**MEASURED, "metrics": lost}
    with pytest.raises(UsageError, match="`int4` has no metric `accuracy/r`"):
        check_gate(candidate, MEASURED, Policy())
    result = check_gate(candidate, MEASURED, Policy(limits={"size_bytes": Limit(max_ratio=1.0)}))
    assert result["missing"] == ["accuracy/r"]
    context = {k: v for k, v in MEASURED["context"].items() if k != "problems_hash/r"}
    unknown = {**MEASURED, "context": context}
    with pytest.raises(UsageError, match="the candidate has no problems_hash/r"):
        check_gate(unknown, MEASURED, Policy())
    assert check_gate(MEASURED, unknown, Policy())["verdict"] == "pass", "an older baseline"
