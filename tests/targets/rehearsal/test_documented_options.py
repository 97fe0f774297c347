"""Arguments of the device's tools against the options that each version documents."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgewright.export.tensorrt.engine import EngineSpec, build_command, run_command
from edgewright.targets.rehearsal.documented import argument_faults, documented_tools

SPEC = EngineSpec(layers=2, kv_heads=2, head_dim=64, prompt=8, context=32)


@pytest.mark.parametrize(
    ("command", "tensorrt", "fault"),
    [
        ("trtexec --onnx=m.onnx --stronglyTyped", "10.3.0", None),
        ("trtexec --onnx=m.onnx --stronglyTyped", "8.6", "not in TensorRT 8.6"),
        ("trtexec --stronglyTipped", "10.3.0", "not documented"),
        ("trtexec --fp16", "10.3.0", None),
        ("trtexec --fp16", "11.1", "not in TensorRT 11.1"),
        ("trtexec --buildOnly", "10.3.0", "not in TensorRT 10.3.0"),
        ("trtexec --monitorMemory", "10.3.0", "not in TensorRT 10.3.0"),
        ("trtexec --monitorMemory", "10.16.1", None),
        ("trtexec --onnx", "10.3.0", "needs a value"),
        ("trtexec --stronglyTyped=1", "10.3.0", "takes no value"),
        ("trtexec --warmUp=soon", "10.3.0", "needs a number"),
        ("trtexec --builderOptimizationLevel=9", "10.3.0", "not `9`"),
        ("trtexec onnx=m.onnx", "10.3.0", "not documented"),
        ("/usr/src/tensorrt/bin/trtexec --sparsity=enable", "8.5.2", None),
        ("nvpmodel -q", "10.3.0", None),
        ("nvpmodel -m 2", "10.3.0", None),
        ("nvpmodel -m", "10.3.0", "needs a value"),
        ("nvpmodel -m MAXN", "10.3.0", "needs a number"),
        ("nvpmodel --set 2", "10.3.0", "not documented"),
        ("tegrastats --interval 500", "10.3.0", None),
        ("tegrastats --intervall 500", "10.3.0", "not documented"),
        ("jetson_clocks --show", "10.3.0", None),
        ("jetson_clocks --max", "10.3.0", "not documented"),
        ("nvidia-smi -q", "10.3.0", "not known to have it"),
    ],
)
def test_an_argument_is_documented_or_a_fault(
    command: str, tensorrt: str, fault: str | None
) -> None:
    faults = argument_faults(command.split(), tensorrt)
    assert not faults if fault is None else fault in faults[0]


@pytest.mark.parametrize("tensorrt", [(10, 3, 0), (10, 16, 1)])
def test_our_own_commands_are_documented(tensorrt: tuple[int, ...], tmp_path: Path) -> None:
    version = ".".join(map(str, tensorrt))
    names = [tmp_path / name for name in ("model.onnx", "model.engine", "timing.cache")]
    commands = [
        build_command("trtexec", tensorrt, SPEC, *names),
        *(
            run_command(
                "trtexec", tensorrt, SPEC, names[1], phase, {"input_ids": names[0]}, names[2]
            )
            for phase in ("prefill", "decode")
        ),
    ]
    assert [argument_faults(command, version) for command in commands] == [[], [], []]


def test_no_version_documents_an_option_twice() -> None:
    for tool in documented_tools().values():
        for version in ("8.5.2", "8.6", "10.3.0", "10.13", "10.16.1", "11.1"):
            names = [n for entry in tool.options if entry.known_to(version) for n in entry.names]
            assert len(names) == len(set(names))
