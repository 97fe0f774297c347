"""The notebooks of examples/ run from top to bottom, and are committed without outputs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "examples").glob("*.ipynb"))
SECONDS = 1200
"""One cell may take, on a machine that is busy with other things."""


def test_there_are_notebooks() -> None:
    assert [file.stem for file in NOTEBOOKS] == ["compress", "gate", "plan"]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_it_is_short_and_has_no_outputs(file: Path) -> None:
    notebook = json.loads(file.read_text())
    assert notebook["cells"][0]["source"][0].startswith("# ")
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    for cell in notebook["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None
        assert len(cell["source"]) <= 25


def html_of(cells: list[dict[str, Any]]) -> str:
    """The HTML of the results of all cells."""
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    return "".join("".join(one.get("data", {}).get("text/html", "")) for one in outputs)


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_it_runs(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # tests run beside each other
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    kernel = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": command, "display_name": "Python", "language": "python"}))
    work = tmp_path / "work"
    work.mkdir()
    notebook = nbformat.read(file, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=SECONDS, startup_timeout=300, resources={"metadata": {"path": str(work)}}
    )
    client.execute()
    assert "<table>" in html_of(notebook["cells"])
    outputs = [one for cell in notebook["cells"] for one in cell.get("outputs", ())]
    said = "".join(one.get("text", "") for one in outputs)
    assert "\x1b" not in said, "progress is plain lines"
    assert "for Jupyter support" not in said, "rich asks for ipywidgets"
