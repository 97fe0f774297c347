"""The folder of criteria: names without torch, and a criterion that is added as one file."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgewright.checkpoints.tensors import read_state
from edgewright.compress.prune import criteria
from edgewright.compress.prune.criteria import CRITERIA
from edgewright.compress.prune.memory import prune_memory
from edgewright.compress.prune.options import PruneOptions
from edgewright.docs.import_graph import ROOT
from edgewright.models import architecture

NAMES = list(CRITERIA)
SHIPPED = {"taylor", "activation", "norm", "magnitude", "random"}
"""Those that edgewright began with. A test of a new one says what it needs in a file of its own."""
SQUARE = '''
"""The square of the gradient."""

from ..criterion import GradientCriterion

CRITERION = GradientCriterion(
    name="square", description="squared gradient", row_scores=lambda gradient: gradient.square()
)
'''


def test_names_and_their_order() -> None:
    assert NAMES[0] == "taylor"
    assert set(NAMES) >= SHIPPED
    baselines = [CRITERIA[name].needs_calibration for name in NAMES]
    assert baselines == sorted(baselines, reverse=True)
    files = {file.stem for folder in criteria.__path__ for file in Path(folder).glob("[!_]*.py")}
    assert files == set(NAMES)
    schema = PruneOptions.model_json_schema()["properties"]["criterion"]
    assert (schema["enum"], schema["default"]) == (NAMES, "taylor")
    for name, criterion in CRITERIA.items():
        assert criterion.name == name
        assert f"{name}: {criterion.description}" in schema["description"]


def test_what_each_criterion_needs() -> None:
    known = {name: criterion for name, criterion in CRITERIA.items() if name in SHIPPED}
    assert [n for n, c in known.items() if c.needs_gradient] == ["taylor"]
    assert [n for n, c in known.items() if not c.needs_calibration] == ["magnitude", "random"]
    assert [n for n, c in known.items() if c.at_random] == ["random"]


def test_only_gradients_need_the_whole_model_in_memory() -> None:
    config: dict[str, Any] = {
        "model_type": "llama",
        "vocab_size": 512,
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 64,
        "num_attention_heads": 8,
    }
    model = architecture(config)
    needs = {
        name: prune_memory(model, model, name, 4096, 512, 1 << 30, compensate=False)
        for name in NAMES
    }
    gradient = {needs.pop(name) for name in NAMES if CRITERIA[name].needs_gradient}
    assert min(gradient) > max(needs.values())
    assert len(set(needs.values())) == 1


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with two more criteria: the example of the guide, and `SQUARE`."""
    folder = tmp_path_factory.mktemp("extended")
    without = shutil.ignore_patterns(".*", "runs", "build", "dist", "tests", "__pycache__")
    shutil.copytree(ROOT, folder / "edgewright", ignore=without, symlinks=True)
    added = folder / "edgewright" / "compress" / "prune" / "criteria"
    guide = (ROOT / "docs" / "contributing" / "importance-criterion.md").read_text()
    (example,) = re.findall(r"^    ```python\n(.*?)^    ```\n", guide, re.M | re.S)
    (added / "largest.py").write_text(textwrap.dedent(example))
    (added / "square.py").write_text(SQUARE)
    return folder


def run(extended: Path, *command: str) -> str:
    """The standard output of Python in the copy."""
    environment = {**os.environ, "PYTHONPATH": str(extended), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=extended,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_one_file_adds_a_choice_without_torch(extended: Path) -> None:
    code = (
        "import sys\n"
        "from edgewright.cli import app\n"
        "app(['recipe', 'schema'], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules"
    )
    schema = run(extended, "-c", code)
    choices = json.loads(schema)["$defs"]["PruneOptions"]["properties"]["criterion"]
    names: list[str] = choices["enum"]
    assert [name for name in names if name not in ("square", "largest")] == NAMES
    assert names.index("square") < names.index("taylor") < names.index("activation")
    assert names.index("norm") < names.index("largest") < names.index("magnitude")
    assert "largest: largest output weight" in choices["description"]


@pytest.mark.parametrize("name", ["largest", "square"])
def test_one_file_adds_a_criterion(
    name: str, extended: Path, make_model: Callable[..., Path], text_file: Path, tmp_path: Path
) -> None:
    source, out = make_model("qwen2"), tmp_path / "out"
    options = ["--heads", "0.5", "--criterion", name, "--samples", "2", "--seq-len", "32"]
    places = ["--calibration", f"text:{text_file}", "--out", str(out), "--json"]
    run(extended, "-m", "edgewright.cli", "prune", str(source), *options, *places)
    removed = json.loads((out / "edgewright.json").read_text())["removed_heads"]
    assert [len(heads) for heads in removed] == [4] * 3
    if name == "largest":
        weight = read_state(source)["model.layers.1.self_attn.o_proj.weight"]
        scores = weight.abs().view(-1, 8, 64).amax((0, 2))
        worst = [group + scores[group : group + 4].argsort()[:2] for group in (0, 4)]
        assert removed[1] == sorted(int(head) for pair in worst for head in pair)
