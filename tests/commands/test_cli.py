"""The command line's contract: exit codes, one clear message, only JSON on standard output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgewright.compress.prune.criteria import CRITERIA

VERBS = [
    "run",
    "plan",
    "prune",
    "distill",
    "iterate",
    "quantize",
    "export",
    "bench",
    "gate",
    "report",
    "targets",
    "doctor",
    "demo",
]


@pytest.fixture(scope="session")
def model(make_model):
    return make_model("llama")


SMALL = ["--samples", 4, "--seq-len", 64]


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_an_example(cli, verb):
    code, out, _ = cli(verb, "--help")
    assert code == 0
    assert f"edgewright {verb}" in out
    assert "Example" in out


def test_version(cli):
    assert cli("--version")[1].strip().count(".") == 2


def test_prune_quantize_export_and_bench_by_hand(cli, model, tmp_path):
    pruned = tmp_path / "pruned"
    packed = tmp_path / "int4"
    artifact = tmp_path / "onnx"
    code, out, _ = cli("prune", model, "--heads", 0.25, "--out", pruned, *SMALL, "--json")
    assert code == 0
    assert json.loads(out)["details"]["max_relative_difference"] < 1e-4
    assert cli("quantize", pruned, "--out", packed, *SMALL)[0] == 0
    code, out, _ = cli(
        "export", packed, "--precision", "int4", "--out", artifact, "--seq-len", 64, "--json"
    )
    assert code == 0
    assert json.loads(out)["details"]["parity"]["parity/top1_prefill"] >= 0.99
    code, out, _ = cli(
        "bench",
        artifact,
        "--perplexity",
        "builtin:reasoning",
        "--windows",
        4,
        "--reference",
        model,
        "--json",
    )
    assert code == 0
    assert json.loads(out)["metrics"]["kl/reasoning"] > 0


def test_the_same_verb_again_is_reused_until_something_changes(cli, model, tmp_path):
    out = tmp_path / "pruned"
    command = ["prune", model, "--ffn", 0.5, "--out", out, *SMALL, "--json"]
    assert json.loads(cli(*command)[1])["reused"] is False
    assert json.loads(cli(*command)[1])["reused"] is True
    (out / "model.safetensors").write_bytes((out / "model.safetensors").read_bytes()[:-1] + b"\x01")
    assert json.loads(cli(*command)[1])["reused"] is False
    assert json.loads(cli(*command[:-1], "--seed", 1, "--json")[1])["reused"] is False


def test_distill_by_hand(cli, model, tmp_path):
    code, out, _ = cli(
        "distill",
        model,
        "--teacher",
        model,
        "--hidden-steps",
        2,
        "--logit-steps",
        2,
        "--batch-size",
        2,
        "--seq-len",
        64,
        "--out",
        tmp_path / "taught",
        "--json",
    )
    assert code == 0
    assert {k: len(v) for k, v in json.loads(out)["details"]["loss"].items()} == {
        "hidden": 2,
        "logits": 2,
    }


BAD = {
    "no such model": (
        ["prune", "/no/such/model", "--heads", 0.5, "--out", "OUT"],
        2,
        "no such model directory",
    ),
    "no such recipe": (["run", "none.yaml"], 2, "no such recipe"),
    "nothing to prune": (["prune", "MODEL", "--out", "OUT"], 2, "nothing to prune"),
    "share above one": (["prune", "MODEL", "--heads", 1.5, "--out", "OUT"], 2, "less than 1"),
    "unknown criterion": (
        ["prune", "MODEL", "--heads", 0.5, "--criterion", "luck", "--out", "OUT"],
        2,
        "--criterion luck: use " + " or ".join(", ".join(CRITERIA).rsplit(", ", 1)),
    ),
    "unknown proof": (
        ["prune", "MODEL", "--heads", 0.5, "--proof", "none", "--out", "OUT"],
        2,
        "--proof none: use auto, stock or streamed",
    ),
    "unknown data": (
        ["quantize", "MODEL", "--calibration", "builtin:nothing", "--out", "OUT"],
        2,
        "no such built-in data",
    ),
    "odd group": (["quantize", "MODEL", "--group-size", 48, "--out", "OUT"], 2, "use 32, 64, 128"),
    "int4 of a dense model": (
        ["export", "MODEL", "--precision", "int4", "--out", "OUT", "--seq-len", 64],
        2,
        "edgewright quantize",
    ),
    "no cuda": (
        ["prune", "MODEL", "--heads", 0.5, "--device", "tpu", "--out", "OUT"],
        2,
        "use auto, cpu or cuda",
    ),
    "nothing to measure": (["bench", "MODEL"], 2, "nothing to measure"),
    "unknown target": (
        ["plan", "MODEL", "--target", "jetson-orin-nanno-8gb"],
        2,
        "jetson-orin-nano-8gb",
    ),
    "no run": (["report", "OUT"], 2, "ledger"),
    "no measurement": (["gate", "a.json", "--baseline", "b.json"], 2, "bench"),
    "usage": (["prune"], 2, "Missing argument"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_message_with_a_hint_and_the_documented_code(cli, model, tmp_path, name):
    args, expected, words = BAD[name]
    out = tmp_path / "out"
    code, printed, error = cli(*[{"MODEL": model, "OUT": out}.get(a, a) for a in args])
    assert code == expected, error
    assert words in " ".join(error.split())
    assert "Traceback" not in error
    assert not printed
    assert not out.exists()


def test_debug_shows_the_traceback(cli):
    from edgewright.errors import UsageError

    with pytest.raises(UsageError):
        cli("run", "none.yaml", "--debug")


def test_plan_refuses_with_3_and_still_prints_the_table(cli, model, tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"model: {model}\ntarget: jetson-orin-nano-8gb\nsteps:\n"
        "  - {kind: quantize, sym: false}\n  - {kind: export, precision: int4}\n"
    )
    code, out, error = cli("plan", recipe, "--json")
    assert code == 3
    assert "symmetric" in error
    assert [row["step"] for row in json.loads(out)["rows"]] == ["baseline", "quantize", "export"]


def test_unsupported_architecture_is_refused_with_3(cli, model, tmp_path):
    config = json.loads((Path(model) / "config.json").read_text()) | {"model_type": "mamba"}
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    code, _, error = cli("prune", tmp_path / "m", "--heads", 0.5, "--out", tmp_path / "out")
    assert code == 3
    assert "mamba" in error


def measurement(path: Path, accuracy: float) -> Path:
    """Of 100 problems, the easiest ones right."""
    samples = {
        "accuracy/reasoning": {
            "correct": "1" * round(100 * accuracy) + "0" * round(100 * (1 - accuracy))
        }
    }
    value = {
        "name": path.stem,
        "metrics": {"accuracy/reasoning": accuracy},
        "context": {"problems/reasoning": 100},
        "samples": samples,
    }
    path.write_text(json.dumps(value))
    return path


def test_gate_passes_with_0_and_fails_with_5(cli, tmp_path):
    old, good, bad = (
        measurement(tmp_path / f"{n}.json", a)
        for n, a in (("old", 0.9), ("good", 0.88), ("bad", 0.5))
    )
    policy = tmp_path / "gate.yaml"
    policy.write_text("accuracy/reasoning: {max_drop: 0.1}")
    assert cli("gate", good, "--baseline", old, "--policy", policy)[0] == 0
    code, out, error = cli("gate", bad, "--baseline", old, "--policy", policy, "--json")
    assert code == 5
    assert json.loads(out)["verdict"] == "fail"
    assert "the gate failed" in error


def test_an_inconclusive_gate_warns_with_0_unless_the_policy_counts_it_as_failed(cli, tmp_path):
    old, new = (measurement(tmp_path / f"{n}.json", a) for n, a in (("old", 0.9), ("new", 0.88)))
    policy = tmp_path / "gate.yaml"
    for rule, expected, message in (
        ("warn", 0, "warning: the gate is inconclusive"),
        ("pass", 0, ""),
        ("fail", 5, "counts as failed"),
    ):
        policy.write_text(
            f"inconclusive: {rule}\nlimits:\n  accuracy/reasoning: {{max_drop: 0.0}}\n"
        )
        code, out, error = cli("gate", new, "--baseline", old, "--policy", policy)
        assert code == expected
        assert message in error and bool(message) == bool(error)
        assert "INCONCLUSIVE (new against old)" in out and "n needed" in out
        assert "interval: each bound holds at 95 %, both together at 90 %" in out


def test_gate_writes_its_result_and_replaces_a_baseline_only_by_itself(cli, tmp_path):
    old, new = (measurement(tmp_path / f"{n}.json", a) for n, a in (("old", 0.9), ("new", 0.5)))
    junit = tmp_path / "gate.xml"
    markdown = tmp_path / "gate.md"
    assert cli("gate", new, "--baseline", old, "--junit", junit, "--markdown", markdown)[0] == 5
    assert "<failure" in junit.read_text() and "**fail**" in markdown.read_text()
    assert cli("gate", new, "--baseline", old, "--update-baseline", "--junit", junit)[0] == 2
    assert json.loads(old.read_text())["name"] == "old"
    assert cli("gate", new, "--baseline", old, "--update-baseline")[0] == 0
    written = json.loads(old.read_text())
    assert written.pop("check")  # of its own content
    assert written == json.loads(new.read_text())
    assert cli("gate", new, "--baseline", tmp_path / "first.json", "--update-baseline")[0] == 0
    assert cli("gate", new, "--baseline", tmp_path / "first.json")[0] == 0


def test_targets_and_doctor(cli):
    code, out, _ = cli("targets", "--json")
    assert code == 0
    assert "jetson-orin-nano-8gb" in [t["name"] for t in json.loads(out)]
    assert cli("targets", "show", "jetson-orin-nano-8gb")[0] == 0
    code, out, _ = cli("doctor", "--json")
    assert code == 0
    assert all(c["ok"] for c in json.loads(out) if c["required"])


def test_dry_run_says_what_would_go_and_writes_nothing(cli, model, tmp_path):
    before = sorted(p.name for p in tmp_path.iterdir())
    command = [
        "prune",
        model,
        "--heads",
        0.25,
        "--layers",
        1,
        *SMALL,
        "--target",
        "jetson-orin-nano-8gb",
    ]
    code, out, _ = cli(*command, "--dry-run", "--json")
    assert code == 0
    plan = json.loads(out)
    assert [len(gone) for gone in plan["pruned_heads"]] == [2, 2, 2]
    assert (len(plan["kept_layers"]), plan["sizes"]["after"]["num_hidden_layers"]) == (2, 2)
    first, second = plan["rows"]
    assert second["parameters"] < first["parameters"]
    assert second["decode_tok_s"] > first["decode_tok_s"]
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    _, out, _ = cli(*command, "--out", tmp_path / "out", "--json")
    assert json.loads(out)["details"]["pruned_heads"] == plan["pruned_heads"]
    assert "heads removed" in cli(*command, "--dry-run")[1]


def test_prune_needs_a_place_and_a_width_that_the_target_runs(cli, model, tmp_path):
    code, _, error = cli("prune", model, "--heads", 0.25, *SMALL)
    assert (code, "--out is missing" in error) == (2, True)
    code, _, error = cli("prune", model, "--ffn", 0.05, "--out", tmp_path / "out", *SMALL)
    assert (code, "0.25 (512 -> 384)" in error) == (3, True)
    narrow = ["prune", model, "--max-parameters", 1000, "--out", tmp_path / "out", *SMALL]
    code, _, error = cli(*narrow)
    assert (code, "the budget cannot be met" in error) == (3, True)
    assert not (tmp_path / "out").exists()


def test_a_width_that_the_target_refuses(cli, make_model, tmp_path):
    command = [
        "prune",
        make_model("llama", intermediate_size=128),
        "--ffn",
        0.375,
        *SMALL,
        "--target",
        "jetson-orin-nano-8gb",
    ]
    code, _, error = cli(*command, "--out", tmp_path / "out")
    assert code == 3
    assert "80" in error  # no multiple of 32: no format takes it
    assert "nearest" in error
    assert not (tmp_path / "out").exists()
