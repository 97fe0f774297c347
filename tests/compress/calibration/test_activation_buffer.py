"""Hidden states beyond the memory budget: the same values, from a file that needs no cleanup."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edgewright.checkpoints.hashing import content_hash
from edgewright.compress.calibration.activation_buffer import ActivationBuffer
from edgewright.compress.prune.runner import PruneOptions, prune
from edgewright.errors import EdgewrightError
from edgewright.steps.context import StepContext

ROW = 4 * 3 * 5


@pytest.mark.parametrize("budget", [None, 0, ROW - 1, ROW, 3 * ROW + 7, 7 * ROW, 10**6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_written_is_read(budget: int | None, dtype: torch.dtype, tmp_path: Path) -> None:
    states = ActivationBuffer(budget, tmp_path).allocate(7, 3, 5, dtype=dtype)
    expected = torch.zeros(7, 3, 5, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    for rows in (slice(0, 7), 2, slice(1, 4), slice(3, 7), 6, slice(2, 3)):
        new = torch.randn(expected[rows].shape, generator=generator).to(dtype)
        expected[rows] = new
        states[rows] = new.view(-1, 3, 5)
        for begin in range(7):
            assert torch.equal(states[begin], expected[begin : begin + 1])
            assert torch.equal(states[begin : begin + 3], expected[begin : begin + 3])
    assert len(states) == 7
    states[0].zero_()  # a copy: what a layer does to its input stays there
    assert torch.equal(states[0], expected[:1])


def test_a_part_of_the_room() -> None:
    assert ActivationBuffer(12, Path("x")).part(4) == ActivationBuffer(3, Path("x"))
    assert ActivationBuffer().part(4) == ActivationBuffer()


def test_nothing_is_left_even_by_a_killed_process(tmp_path: Path) -> None:
    code = (
        "import os, sys, torch\nfrom pathlib import Path\n"
        "from edgewright.compress.calibration.activation_buffer import ActivationBuffer\n"
        "states = ActivationBuffer(0, Path(sys.argv[1])).allocate(4, 8, 8)\n"
        "states[0] = torch.ones(1, 8, 8)\n"
        "print(len(os.listdir(sys.argv[1])), flush=True)\nos.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "0\n")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_message_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(_descriptor: int, _offset: int, _size: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "posix_fallocate", no_space)
    with pytest.raises(
        EdgewrightError, match=r"0.0 GB of activations do not fit: No space left on device"
    ) as caught:
        ActivationBuffer(ROW, tmp_path).allocate(7, 3, 5)
    assert "--activation-budget" in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_the_budget_has_no_say_in_the_result(
    make_model: object, context: StepContext, tmp_path: Path
) -> None:
    source = make_model("gemma3_text")  # type: ignore[operator]
    options = PruneOptions(heads=0.5, ffn=0.25, layers=1, criterion="activation")
    hashes = set()
    for name, budget in (("all", 1 << 30), ("some", 40_000), ("none", 0)):
        prune(options, source, tmp_path / name, replace(context, activation_budget=budget))
        hashes.add(content_hash(tmp_path / name))
    assert len(hashes) == 1
    assert len(list(tmp_path.iterdir())) == 3
