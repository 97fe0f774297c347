"""The parts of the TensorRT program by themselves: rooms, layouts, errors, and the API's names."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
import tensorrt_double as double
from cudart_double import Cudart
from engine_fixtures import engine_of
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewright.errors import EdgewrightError, UsageError
from edgewright.export.tensorrt.rtx import installed
from edgewright.targets.device import cuda as cuda_module
from edgewright.targets.device.cuda import Cuda
from edgewright.targets.device.engine_cache import ALIGNMENT, Layout, Slots, rooms
from edgewright.targets.device.engine_session import EngineSession

pytest_plugins = ["engine_fixtures"]

SIZES = st.integers(1, 300)


@settings(max_examples=100, deadline=None)
@given(tensors=SIZES, rows=SIZES, vector=st.integers(1, 600), slots=st.integers(1, 5000))
def test_every_tensor_is_aligned_and_inside(
    tensors: int, rows: int, vector: int, slots: int
) -> None:
    layout = Layout(tensors, rows, vector)
    for tensor in (0, tensors // 2, tensors - 1):
        assert layout.offset(tensor, slots) % ALIGNMENT == 0
        assert layout.offset(tensor, slots) + rows * slots * vector <= layout.size(slots)
    assert layout.rows < rows + ALIGNMENT


@pytest.mark.parametrize("gapless", [False, True])
@pytest.mark.parametrize("context", [2, 3, 5, 300, 1100])
def test_the_past_always_has_room(context: int, gapless: bool) -> None:
    chance = random.Random(context)
    for _ in range(20):
        prompt = chance.randint(1, context - 1)
        longest, prefill = context - 1, context - prompt
        slots = Slots(() if gapless else rooms(longest, prefill), longest)
        assert (slots.room, slots.used) == (1, 1)
        left = context - 1
        while left:
            fits = slots.room <= prefill
            assert fits or slots.used > prefill, "several tokens at once wherever the engine can"
            count = chance.randint(1, min(left, prompt)) if fits else 1
            assert slots.used <= slots.room <= longest
            assert slots.room + count <= context
            left -= count
            assert slots.add(count) == (slots.used <= longest)
        assert slots.length == context - 1


def test_rooms_are_few() -> None:
    assert rooms(2047, 1536) == (256, 512, 1024, 1536, 2047)
    assert rooms(31, 24) == (24, 31)
    assert len(rooms(131_071, 130_560)) == 11


def test_cuda_errors_are_said(cudart: Cudart) -> None:
    cudart.failing = "cudaMalloc"
    with pytest.raises(EdgewrightError, match=r"cudaMalloc failed: CUDA error: out of memory"):
        Cuda(cudart).allocate(1 << 40)


def test_a_machine_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_module, "NAMES", ("libcudart-of-nobody.so",))
    with pytest.raises(EdgewrightError, match="libcudart is not on this device"):
        Cuda()


def test_a_failed_capture_ends_the_capture(cudart: Cudart) -> None:
    def work() -> None:
        cudart.enqueue(lambda: None)
        raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        Cuda(cudart).captured(work)
    assert cudart.capturing is None


def test_an_engine_of_something_else(cudart: Cudart, tmp_path: Path, exported: Any) -> None:
    demo = Path(__file__).parents[3] / "demo" / "model"
    file = tmp_path / "e.engine"
    with pytest.raises(UsageError, match="no engine"):
        EngineSession(double, Cuda(cudart), file)
    file.write_bytes(b"")
    with pytest.raises(UsageError, match="no engine"):
        EngineSession(double, Cuda(cudart), file)
    artifact = exported(demo)
    engine_of(artifact, file, prompt=8, context=64)
    content = file.read_text()
    file.write_text(re.sub(r'"profiles": \[(\{.*?\}), \{.*?\}\]', r'"profiles": [\1]', content))
    with pytest.raises(UsageError, match="has 1 profiles, and an engine of a bundle has 2"):
        EngineSession(double, Cuda(cudart), file)


@pytest.mark.skipif(installed() is None, reason="needs TensorRT for RTX")
def test_the_double_has_tensorrts_names() -> None:
    trt = installed()
    for name in ("Runtime", "ICudaEngine", "IExecutionContext", "ILogger"):
        made = getattr(double, name)
        ours = {one for one in vars(made) if not one.startswith("_")}
        assert ours <= set(dir(getattr(trt, name))), name
    for kind in (double.DataType, double.TensorIOMode, double.ExecutionContextAllocationStrategy):
        theirs = getattr(trt, kind.__name__)
        assert {one.name for one in kind} <= set(theirs.__members__)
    assert trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE is not None
    assert {"cuda_graph_strategy"} <= set(dir(trt.IRuntimeConfig))


@pytest.mark.skipif(installed() is None, reason="needs TensorRT for RTX")
def test_tensorrt_itself_refuses_what_is_no_engine(cudart: Cudart, tmp_path: Path) -> None:
    file = tmp_path / "e.engine"
    file.write_bytes(b"no engine" * 100)
    message = r"TensorRT 1\.\S+ cannot load it on a GPU of compute capability 8\.7: .*magicTag"
    with pytest.raises(EdgewrightError, match=message):
        EngineSession(installed(), Cuda(cudart), file)
