"""Hub ids where a model is named: what is fetched, revisions, the cache, and work without a hub."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_server import HubServer, serving, use_hub

from edgewright.checkpoints.config import BUILTIN_MODEL, model_path

ID = "tester/small"
WEIGHTS = "model.safetensors"
TEXT = ("--samples", 2, "--seq-len", 32)
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(make_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository that has, as many do, second copies of its weights and other files."""
    folder = tmp_path_factory.mktemp("hub") / "small"
    shutil.copytree(make_model("llama"), folder)
    (folder / "README.md").write_text("a card")
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    (folder / "consolidated.safetensors").write_bytes(b"never read")
    (folder / "original").mkdir()
    (folder / "original" / WEIGHTS).write_bytes(b"never read")
    return folder


@pytest.fixture
def hub(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    others = {"v2": tmp_path / "v2", "refs/pr/1": tmp_path / "request"}
    for folder in others.values():  # the cache keeps equal files of two revisions once
        shutil.copytree(model, folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "revision": folder.name}))
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "README.md").write_text("weights of another format")
    found = {f"{ID}@main": model, "tester/empty@main": empty}
    found |= {f"{ID}@{revision}": folder for revision, folder in others.items()}
    with serving(found) as server:
        use_hub(monkeypatch, server.url, tmp_path / "cache", offline=False)
        monkeypatch.chdir(tmp_path)
        yield server


PLANS = {
    "plan": ("plan", ID, "--target", "jetson-orin-nano-8gb"),
    "plan of one precision": ("plan", ID, "--precision", "int8"),
    "targets check": ("targets", "check", ID, "--target", "jetson-orin-nano-8gb"),
    "draft": ("plan", BUILTIN_MODEL, "--target", "jetson-orin-nx-16gb", "--draft", ID),
}


@pytest.mark.parametrize("command", PLANS)
def test_a_plan_fetches_the_config_alone(cli: Cli, hub: HubServer, command: str) -> None:
    code, _, error = cli(*PLANS[command])
    # A verdict, or a draft with another vocabulary: both need the config.
    assert code in (0, 3) or "tokens and the model" in error, error
    assert hub.fetched == [f"{ID}@main/config.json"]


def recipe(folder: Path) -> Path:
    """A recipe of which the model and the teacher are on the hub."""
    file = folder / "hub.yaml"
    file.write_text(
        f"name: hub\nmodel: {ID}\ntarget: jetson-orin-nano-8gb\n"
        "calibration: {source: 'builtin:reasoning', samples: 2, seq_len: 32}\n"
        "steps:\n"
        "  - {kind: prune, heads: 0.5}\n"
        f"  - {{kind: distill, teacher: {ID}@v2, data: 'builtin:reasoning', seq_len: 32,\n"
        "     stages: [{loss: logits, steps: 1}]}\n"
    )
    return file


def test_the_plan_of_a_recipe_fetches_configs_alone(
    cli: Cli, hub: HubServer, tmp_path: Path
) -> None:
    code, _, error = cli("plan", recipe(tmp_path))
    assert code == 0, error
    assert sorted(hub.fetched) == [f"{ID}@main/config.json", f"{ID}@v2/config.json"]


def test_verbs_take_a_hub_id_wherever_they_take_a_model(cli: Cli, hub: HubServer) -> None:
    bench = ("bench", ID, "--perplexity", "builtin:reasoning", "--windows", 2, "--seq-len", 32)
    distill = ("--data", "builtin:reasoning", "--seq-len", 32, "--batch-size", 2)
    stages = ("--hidden-steps", 1, "--logit-steps", 1)
    traces = ("--prompts", "builtin:reasoning", "--limit", 2, "--chains", 2)
    commands = [
        (*bench, "--reference", f"{ID}@v2"),
        ("bench", ID, "--latency", "--against", ID, "--runs", 1, "--prompt", 4, "--new-tokens", 4),
        ("prune", ID, "--heads", 0.5, "--out", "pruned", *TEXT),
        ("quantize", f"{ID}@main", "--method", "rtn", "--group-size", 32, "--out", "int4", *TEXT),
        ("distill", ID, "--teacher", f"{ID}@v2", *distill, *stages, "--out", "taught"),
        ("export", ID, "--out", "onnx", "--seq-len", 32),
        ("traces", ID, *traces, "--max-new-tokens", 4, "--out", "traces.jsonl"),
        ("kv-study", ID, "--perplexity", "builtin:reasoning", "--windows", 2, "--seq-len", 32),
        ("iterate", ID, "--rounds", 1, "--ffn", 0.5, *distill, *stages, "--out", "small"),
    ]
    for words in commands:
        code, _, error = cli(*words)
        assert code == 0, (words, error)
    files = {name.partition("/")[2].partition("/")[2] for name in hub.fetched}
    assert {WEIGHTS, "config.json", "tokenizer.json"} <= files
    assert not files & {"README.md", "pytorch_model.bin", "consolidated.safetensors"}
    assert f"original/{WEIGHTS}" not in files
    assert len(hub.fetched) == len(set(hub.fetched))  # the second use comes from the cache


def test_a_revision_is_that_revision(cli: Cli, hub: HubServer) -> None:
    assert cli("plan", f"{ID}@refs/pr/1")[0] == 0
    assert hub.fetched == [f"{ID}@refs/pr/1/config.json"]
    code, _, error = cli("plan", f"{ID}@v3")
    assert code == 2 and f"{ID}@v3: no such directory; tried as a hub id" in error


def test_without_a_hub_the_cache_is_used(
    cli: Cli, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prune = ("prune", ID, "--heads", 0.5, *TEXT)
    assert cli("plan", ID)[0] == 0
    use_hub(monkeypatch, hub.url, tmp_path / "cache", offline=True)
    assert cli("plan", ID)[0] == 0
    code, _, error = cli(*prune, "--out", "early")  # the cache has no weights yet
    assert code == 2 and "not available from the hub" in error
    use_hub(monkeypatch, hub.url, tmp_path / "cache", offline=False)
    assert cli(*prune, "--out", "first")[0] == 0
    use_hub(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache", offline=False)
    code, _, error = cli(*prune, "--out", "second")  # the hub is down
    assert code == 0, error
    first, second = (Path(name, WEIGHTS).read_bytes() for name in ("first", "second"))
    assert first == second


@pytest.mark.parametrize("name", ["tester/empty", "tester/nothing"])
def test_what_the_hub_does_not_have_is_one_message(cli: Cli, hub: HubServer, name: str) -> None:
    code, out, error = cli("quantize", name, "--out", "int4")
    assert (code, out) == (2, "")
    assert error.startswith(f"error: {name}: ") and "->" in error
    assert not Path("int4").exists()


def test_hf_home_and_hf_endpoint_are_obeyed(hub: HubServer, tmp_path: Path) -> None:
    home = tmp_path / "home"
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "0",
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
    }
    environment.pop("HF_HUB_CACHE", None)
    command = [sys.executable, "-m", "edgewright.cli", "plan", ID, "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"]
    assert hub.fetched == [f"{ID}@main/config.json"]
    assert list(home.rglob("config.json"))


def test_the_built_in_model_needs_no_hub(cli: Cli, hub: HubServer) -> None:
    assert cli("plan", BUILTIN_MODEL)[0] == 0
    assert cli("plan", model_path(BUILTIN_MODEL))[0] == 0
    assert hub.fetched == []
