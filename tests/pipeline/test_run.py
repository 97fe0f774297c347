"""The whole chain on a small Llama model: real steps, reuse, altered files, killed runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from edgewright.benchmarks.measurement_files import load_measurement, read_scores
from edgewright.errors import Refused, UsageError
from edgewright.pipeline.recipe_file import load_recipe
from edgewright.pipeline.run import run_recipe

RECIPE = {
    "name": "small",
    "target": "jetson-orin-nano-8gb",
    "device": "cpu",
    "calibration": {"source": "builtin:reasoning", "samples": 8, "seq_len": 64},
    "evaluate": {
        "tasks": ["reasoning"],
        "limit": 8,
        "max_new_tokens": 12,
        "perplexity": ["builtin:reasoning"],
        "windows": 8,
        "seq_len": 96,
        "latency": {"prompt": 16, "new_tokens": 4, "runs": 2},
    },
    "steps": [
        {"kind": "prune", "heads": 0.25},
        {
            "kind": "distill",
            "student": {"from": "prune", "ffn": 0.5},
            "seq_len": 64,
            "batch_size": 4,
            "stages": [{"loss": "hidden", "steps": 4}, {"loss": "logits", "steps": 8}],
        },
        {"kind": "quantize"},
        {"kind": "export", "name": "int4", "precision": "int4"},
        {"kind": "export", "name": "int8", "from": "distill", "precision": "int8-dynamic"},
    ],
    "gate": {
        "candidate": "int4",
        "limits": {"perplexity/reasoning": {"max_ratio": 100.0}, "size_bytes": {"max_ratio": 0.9}},
    },
}
STEPS = ["baseline", "prune", "distill", "quantize", "int4", "int8"]
METRICS = [
    "accuracy/reasoning",
    "accuracy/reasoning/n",
    "accuracy/reasoning/stderr",
    "perplexity/reasoning",
    "ttft_ms/p50",
    "ttft_ms/p90",
    "ttft_ms/p99",
    "decode_tok_s/p50",
    "prefill_tok_s",
    "peak_rss_bytes",
    "size_bytes",
    "parameters",
]


@pytest.fixture(scope="session")
def recipe_file(make_model, tmp_path_factory):
    model = make_model("llama")
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(yaml.safe_dump(RECIPE | {"model": str(model)}))
    return path


@pytest.fixture(scope="session")
def finished(recipe_file, tmp_path_factory):
    """A finished run, which the tests below may look at but not change."""
    out = tmp_path_factory.mktemp("runs") / "small"
    run_recipe(load_recipe(recipe_file), out)
    return out


@pytest.fixture
def run_copy(finished, tmp_path):
    """A copy of the finished run to tamper with."""
    shutil.copytree(finished, tmp_path / "small", symlinks=True)
    return tmp_path / "small"


def ledger(run: Path) -> dict:
    return json.loads((run / "ledger.json").read_text())


def hashes(run: Path) -> dict[str, str]:
    return {s["name"]: s.get("output_hash", "") for s in ledger(run)["steps"]}


def test_nothing_that_a_run_writes_can_name_a_step(finished: Path, recipe_file: Path) -> None:
    own = {path.name for path in finished.iterdir()} - set(STEPS)
    assert own >= {"ledger.json", "report.html", "report.md", "samples"}
    for name in own:
        with pytest.raises(UsageError, match=r"`steps\.2"):
            load_recipe(recipe_file, [f"steps.2.name={name}"])


def test_the_run_of_another_recipe_is_kept(
    run_copy: Path, recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (run_copy / "ledger.json").read_bytes()
    other = load_recipe(recipe_file, ["name=other"])
    with pytest.raises(UsageError, match="holds the run of the recipe `small`, and this is") as no:
        run_recipe(other, run_copy)
    assert "--out" in no.value.hint and "--fresh" in no.value.hint
    assert (run_copy / "ledger.json").read_bytes() == before

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgewright.pipeline.run.make_recipe_traces", stop)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(other, run_copy, fresh=True)
    assert not (run_copy / "prune").exists(), "--fresh removed the other run"


def test_every_step_is_in_the_ledger_with_every_metric(finished):
    steps = ledger(finished)["steps"]
    assert [s["name"] for s in steps] == STEPS
    for step in steps:
        assert all(isinstance(step["metrics"][m], int | float) for m in METRICS), step["name"]
        assert step["context"]["threads"] >= 1
        assert (
            step["name"] == "baseline"
            or {"kl/reasoning", "top1_agreement/reasoning"} <= step["metrics"].keys()
        )
    assert ledger(finished)["gate"]["verdict"] == "pass"
    assert (finished / "report.html").stat().st_size > 10_000


def test_samples_are_kept_beside_the_ledger_for_the_gate(finished):
    for step in ledger(finished)["steps"]:
        assert step["samples"] == f"samples/{step['name']}.json"
        read = load_measurement(f"{finished}:{step['name']}")
        assert read_scores(read, "accuracy/reasoning") and read_scores(read, "perplexity/reasoning")
    check = ledger(finished)["gate"]["checks"][0]
    assert (check["metric"], check["verdict"]) == ("perplexity/reasoning", "pass")
    low, high = check["interval"]
    assert low < check["observed"] < high


def test_a_measurement_whose_samples_are_gone_is_made_again(run_copy, recipe_file, capsys):
    (run_copy / "samples" / "int4.json").unlink()
    run_recipe(load_recipe(recipe_file), run_copy)
    assert (run_copy / "samples" / "int4.json").is_file()
    assert capsys.readouterr().err.count("reused") == len(STEPS) - 1


def test_artifacts_are_measured_in_onnx_runtime(finished):
    backends = {s["name"]: s["context"]["backend"] for s in ledger(finished)["steps"]}
    assert backends == dict.fromkeys(STEPS[:4], "torch") | {
        "int4": "onnxruntime",
        "int8": "onnxruntime",
    }


def test_tensors_are_physically_smaller(finished):
    by_name = {s["name"]: s["metrics"] for s in ledger(finished)["steps"]}
    assert by_name["prune"]["parameters"] < by_name["baseline"]["parameters"]
    assert by_name["distill"]["parameters"] < by_name["prune"]["parameters"]
    assert by_name["quantize"]["size_bytes"] < 0.5 * by_name["distill"]["size_bytes"]


def test_checkpoints_load_without_edgewright(finished):
    code = (
        "import sys, torch\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "for path in sys.argv[1:]:\n"
        "    model = AutoModelForCausalLM.from_pretrained(path)\n"
        "    tokenizer = AutoTokenizer.from_pretrained(path)\n"
        "    inputs = tokenizer('1+1', return_tensors='pt')\n"
        "    out = model.generate(**inputs, max_new_tokens=4, do_sample=False)\n"
        "    assert out.shape[1] > 3\n"
        "assert not any(name.startswith('edgewright') for name in sys.modules)\n"
    )
    folders = [str(finished / name) for name in ("prune", "distill")]
    subprocess.run([sys.executable, "-c", code, *folders], check=True, capture_output=True)


def test_a_second_run_reuses_everything(run_copy, recipe_file, capsys):
    before = {p: p.stat().st_mtime_ns for p in run_copy.rglob("*.safetensors")}
    run_recipe(load_recipe(recipe_file), run_copy)
    assert capsys.readouterr().err.count("reused") == len(STEPS) - 1
    assert before == {p: p.stat().st_mtime_ns for p in run_copy.rglob("*.safetensors")}


def test_an_altered_file_is_never_trusted(run_copy, recipe_file, capsys):
    expected = hashes(run_copy)
    weights = run_copy / "quantize" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    run_recipe(load_recipe(recipe_file), run_copy)
    error = capsys.readouterr().err
    assert "was altered" in error
    # The exports are reused, because the step that they read came out the same again.
    assert error.count("reused") == len(STEPS) - 2
    assert hashes(run_copy) == expected


def test_a_changed_option_redoes_that_step_and_says_why(run_copy, recipe_file, capsys):
    run_recipe(load_recipe(recipe_file, ["steps.quantize.damp=0.05"]), run_copy)
    error = " ".join(capsys.readouterr().err.split())
    assert "made again: config.damp changed" in error
    assert "made again: inputs.quantize changed" in error
    assert error.count("reused") == 3  # prune, distill, int8


def test_a_target_that_cannot_run_it_is_refused_before_any_work(recipe_file, tmp_path):
    recipe = load_recipe(recipe_file, ["steps.quantize.sym=false"])
    with pytest.raises(Refused, match="symmetric"):
        run_recipe(recipe, tmp_path / "never")
    assert not (tmp_path / "never").exists()


def start(recipe: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "edgewright.cli", "run", str(recipe), "--out", str(out)]
    # As in this process: with more threads, sums are rounded differently.
    threads = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=threads,
    )


def kill_when(process: subprocess.Popen[bytes], condition, limit: float = 900) -> None:
    """kill -9 the process and what it started, as soon as `condition` holds."""
    deadline = time.monotonic() + limit
    while not condition():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def resumed(recipe: Path, out: Path) -> dict[str, str]:
    assert start(recipe, out).wait(timeout=1200) == 0
    return hashes(out)


def step_in_progress(out: Path, name: str):
    return lambda: any((out / f".{name}.{part}").exists() for part in ("tmp", "student"))


def test_kill_9_while_distilling_then_the_same_command(finished, recipe_file, tmp_path):
    out = tmp_path / "small"
    kill_when(start(recipe_file, out), step_in_progress(out, "distill"))
    assert "distill" not in hashes(out)
    assert resumed(recipe_file, out) == hashes(finished)
    assert not list(out.glob(".*.tmp"))
    assert not list(out.glob(".*.student"))


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS[1:])
def test_kill_9_in_each_step(name, finished, recipe_file, tmp_path):
    out = tmp_path / "small"
    kill_when(start(recipe_file, out), step_in_progress(out, name))
    assert resumed(recipe_file, out) == hashes(finished)


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_kill_9_while_measuring(name, finished, recipe_file, tmp_path):
    """Killed once the step stands and before its metrics do: the step is kept and measured."""
    out = tmp_path / "small"

    def made() -> bool:
        if name == "baseline":
            return (out / ".lock").exists()
        return (out / "ledger.json").exists() and any(
            s["name"] == name and not s["metrics"] for s in ledger(out)["steps"]
        )

    kill_when(start(recipe_file, out), made)
    assert resumed(recipe_file, out) == hashes(finished)


def test_two_runs_in_one_directory_are_refused(recipe_file, tmp_path):
    out = tmp_path / "small"
    first = start(recipe_file, out)
    deadline = time.monotonic() + 120
    while not (out / ".lock").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.2)
    second = subprocess.run(
        [sys.executable, "-m", "edgewright.cli", "run", str(recipe_file), "--out", str(out)],
        capture_output=True,
        text=True,
    )
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert second.returncode == 1
    assert "another edgewright run" in second.stderr
