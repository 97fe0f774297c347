"""An interrupted quantize resumes, and writes the same bytes as one that was not interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from edgewright.checkpoints.hashing import content_hash
from edgewright.checkpoints.streaming import Streamed
from edgewright.compress.calibration.activation_buffer import ActivationBuffer
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.resume_journal import Journal
from edgewright.compress.quantize.runner import quantize
from edgewright.errors import EdgewrightError
from edgewright.pipeline.verb import run_verb
from edgewright.steps.context import StepContext, StepResult

MakeModel = Callable[..., Path]
Cli = Callable[..., tuple[int, str, str]]
NARROW = {"intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 1}
SPILLING = 4 * 32 * 128 * 6
"""A budget for two of six rows, in three sets of states."""
METHODS: list[tuple[str, dict[str, Any], int]] = [
    ("llama", {"method": "gptq", "scaling": "awq", "sensitivity": {"budget": 0.2}}, SPILLING),
    ("qwen2", {"method": "awq"}, 1 << 30),
    ("qwen2", {"method": "int8"}, SPILLING),
    ("llama", {"method": "smoothquant"}, 0),
    ("qwen2_moe", {"method": "gptq", "group_size": 32}, 1 << 30),
]


@contextmanager
def interrupted_at(visit: int) -> Iterator[None]:
    """Interrupt the process while a layer is quantized; the first layer that is read is visit 0."""
    held = Streamed.held
    visits = count()

    @contextmanager
    def stopping(self: Streamed, index: int) -> Iterator[Any]:
        with held(self, index) as module:
            yield module
            if next(visits) == visit:
                raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Streamed, "held", stopping)
        with pytest.raises(KeyboardInterrupt):
            yield


def test_killed_in_the_middle_and_started_again(
    make_model: MakeModel, text_file: Path, tmp_path: Path, cli: Cli
) -> None:
    source = make_model("llama", num_hidden_layers=8, **NARROW)
    few = [
        "quantize",
        source,
        "--calibration",
        f"text:{text_file}",
        "--samples",
        4,
        "--seq-len",
        32,
        "--device",
        "cpu",
        "--json",
    ]
    code, expected, err = cli(*few, "--out", tmp_path / "whole")
    assert code == 0, err
    out = tmp_path / "out"
    journal = tmp_path / ".out.journal"
    process = subprocess.Popen(
        [sys.executable, "-m", "edgewright.cli", *map(str, few), "--out", out],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    while process.poll() is None and not (journal / "layer-00001.safetensors").exists():
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it had ended before it could be killed"
    assert not out.exists()
    code, again, err = cli(*few, "--out", out)
    assert code == 0, err
    assert " of 8 layers were finished by an interrupted run" in err
    assert content_hash(out) == content_hash(tmp_path / "whole")
    assert again.split('"notes"')[1] == expected.split('"notes"')[1]
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "out"}


@pytest.mark.parametrize(
    ("family", "options", "budget"), METHODS, ids=["gptq", "awq", "int8", "smoothquant", "mixture"]
)
def test_every_method_goes_on_at_its_layer(
    family: str,
    options: dict[str, Any],
    budget: int,
    make_model: MakeModel,
    context: StepContext,
    tmp_path: Path,
) -> None:
    source = make_model(family, **NARROW)
    asked = QuantizeOptions(**options)
    whole = quantize(asked, source, tmp_path / "whole", context)
    journaled = replace(context, depends_on={"this": 1}, activation_budget=budget)
    with interrupted_at(5 if asked.sensitivity else 2):  # which walks along the layers once more
        quantize(asked, source, tmp_path / "out", journaled)
    assert {path.name for path in (tmp_path / ".out.journal").glob("*.*")} >= {
        "layer-00000.safetensors",
        "layer-00001.safetensors",
        "states-00002.bin",
    }
    seen: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        held = Streamed.held
        patch.setattr(Streamed, "held", lambda self, index: seen.append(index) or held(self, index))
        again = quantize(asked, source, tmp_path / "out", journaled)
    assert seen == [2]
    assert content_hash(tmp_path / "out") == content_hash(tmp_path / "whole")
    assert again == whole
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "out"}


def test_when_only_the_writing_was_left(
    make_model: MakeModel, context: StepContext, tmp_path: Path, monkeypatch: Any
) -> None:
    """If all layers are finished, nothing is computed again."""
    source = make_model("llama", **NARROW)
    journaled = replace(context, depends_on={"this": 1})
    quantize(QuantizeOptions(), source, tmp_path / "whole", context)
    module = "edgewright.compress.quantize.runner.write_checkpoint"

    def stopped(out: Path, state: Any, *_rest: Any, **_more: Any) -> None:
        for _ in state.tensors:
            pass
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, stopped)
        quantize(QuantizeOptions(), source, tmp_path / "out", journaled)
    monkeypatch.setattr(Streamed, "held", lambda *_: pytest.fail("a finished layer is made again"))
    quantize(QuantizeOptions(), source, tmp_path / "out", journaled)
    assert content_hash(tmp_path / "out") == content_hash(tmp_path / "whole")


def test_another_step_starts_afresh_and_says_what_differs(
    make_model: MakeModel, context: StepContext, tmp_path: Path, capsys: Any
) -> None:
    source = make_model("llama", **NARROW)
    fields = {
        "config": {"group_size": 128, "bits": 4},
        "inputs": {"model": "a"},
        "seed": 0,
        "code": "x",
    }

    def run(folder: str, changed: dict[str, Any], **options: Any) -> StepResult:
        return quantize(
            QuantizeOptions(**options),
            source,
            tmp_path / folder,
            replace(context, depends_on=fields | changed),
        )

    run("whole", {}, group_size=32)
    with interrupted_at(1):
        run("out", {})
    capsys.readouterr()
    run("out", {"config": {"group_size": 32, "bits": 4}, "seed": 1}, group_size=32)
    printed = capsys.readouterr().err
    assert "started afresh: config.group_size, seed changed since the interrupted run" in printed
    assert "layers were finished" not in printed
    assert content_hash(tmp_path / "out") == content_hash(tmp_path / "whole")


def test_fresh_takes_nothing_over(
    make_model: MakeModel, context: StepContext, tmp_path: Path, capsys: Any
) -> None:
    step = (
        "quantize",
        QuantizeOptions(),
        str(make_model("llama", **NARROW)),
        tmp_path / "out",
        context,
    )
    with interrupted_at(1):
        run_verb(*step)
    assert (tmp_path / ".out.journal" / "layer-00000.safetensors").is_file()
    run_verb(*step, fresh=True)
    assert "interrupted run" not in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


@pytest.mark.parametrize("file", ["layer-00000.safetensors", "states-00002.bin"])
def test_a_damaged_journal_is_one_message(
    file: str, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    source = make_model("llama", **NARROW)
    journaled = replace(context, depends_on={"this": 1})
    with interrupted_at(2):
        quantize(QuantizeOptions(), source, tmp_path / "out", journaled)
    with (tmp_path / ".out.journal" / file).open("r+b") as handle:
        handle.truncate(1000)
    with pytest.raises(EdgewrightError, match="damaged") as caught:
        quantize(QuantizeOptions(), source, tmp_path / "out", journaled)
    assert "--fresh" in caught.value.hint
    quantize(QuantizeOptions(), source, tmp_path / "out", replace(journaled, fresh=True))
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_without_a_name_for_what_it_depends_on_nothing_is_kept(
    make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    with interrupted_at(1):
        quantize(QuantizeOptions(), make_model("llama", **NARROW), tmp_path / "out", context)
    assert not list(tmp_path.iterdir())


def test_what_is_not_whole_does_not_count(tmp_path: Path) -> None:
    """A kill between the renames of a layer and of its states; a temporary file that is left."""
    states = ActivationBuffer().allocate(2, 4, 8)
    states[:] = torch.randn(2, 4, 8)
    journal = Journal(tmp_path, 4)
    for index in range(2):
        journal.put(index, {"a": torch.full((2,), index)}, {"modules": {}}, states)
    journal.close()
    assert {path.name for path in tmp_path.iterdir()} == {
        "layer-00000.safetensors",
        "layer-00001.safetensors",
        "states-00002.bin",
    }
    assert Journal(tmp_path, 4).done == 2
    (tmp_path / "states-00002.bin").rename(tmp_path / "states-00001.bin")
    (tmp_path / "layer-00002.tmp").write_bytes(b"half")
    again = Journal(tmp_path, 4)
    assert again.done == 1
    entering = ActivationBuffer(0, tmp_path).allocate(2, 4, 8)
    assert again.restore(entering) == 1
    assert torch.equal(entering[:], states[:])
    (tmp_path / "states-00001.bin").unlink()
    assert Journal(tmp_path, 4).done == 0
