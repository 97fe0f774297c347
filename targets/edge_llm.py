"""Check that TensorRT-Edge-LLM reads a checkpoint correctly, and list the commands to run it.

The exporter of TensorRT-Edge-LLM accepts some checkpoints without a message, although the result is
wrong or slow on the device. It reads weights in an unknown layout as unquantized. It clamps zero
points other than 8. Reordered groups cost a gather for every product. All of these are refused here
with the reason.

The rules are from its 0.9.1 documentation and its 0.11.0 package. `make compat` compares the
verdicts with the real exporter.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoints.config import packing, quantization, read_architecture, written_config
from ..checkpoints.inventory import StoredTensor, inventory
from ..models import Architecture
from .edge_llm_rules import edge_llm_model
from .platform_profile import EdgeLlm, Int4
from .profile import Target
from .violation import Violation

__all__ = ["check_checkpoint", "commands", "device_commands", "host_commands"]

VERSION = "0.11.0"
BESIDE = (
    "torch==2.13.0",
    "transformers==5.14.1",
    "huggingface-hub<2",
    "onnx==1.19.0",
    "onnxscript==0.7.1",
    "safetensors==0.8.0",
    "numpy==2.2.6",
    "onnx-graphsurgeon==0.6.1",
)
"""Packages that its exporter needs, in the versions that `make compat` uses."""
CUDA = {"6.2": "12.6", "7.2": "13.2"}
"""CUDA version by JetPack release."""
READ = ("gptq", "awq", "modelopt")
CENTRED = {"gptq": (0x77777777, -0x77777778), "awq": (-0x77777778,)}
"""Signed words of eight zero points of 8. GPTQ stores 7, its second version and AWQ store 8."""
CHAT_TEMPLATES = ("chat_template.jinja", "chat_template.json")


@dataclass(frozen=True)
class _Checkpoint:
    """A checkpoint, and the limits of the device, for the rules."""

    path: Path
    model: Architecture
    specs: Mapping[str, StoredTensor]
    method: str | None
    int4: Int4
    edge: EdgeLlm

    @property
    def config(self) -> Mapping[str, Any]:
        """Its config.json."""
        return self.model.config

    def shape_of(self, module: str) -> tuple[int, int] | None:
        """The (outputs, inputs) of a linear layer by its tensors; None: it has no tensors."""
        if f"{module}.qweight" in self.specs:
            rows, columns = self.specs[f"{module}.qweight"].shape
            bits = (packing(self.config) or (4, 0, True))[0]
            return (
                (columns, rows * 32 // bits)
                if self.method == "gptq"
                else (columns * 32 // bits, rows)
            )
        weight = self.specs.get(f"{module}.weight")
        return (int(weight.shape[0]), int(weight.shape[1])) if weight is not None else None


def check_checkpoint(path: Path, target: Target) -> list[Violation]:
    """Reasons why TensorRT-Edge-LLM would refuse, misread or slow down a checkpoint; empty: none.

    Raises:
        UsageError: the path is no checkpoint, or the checkpoint is damaged.
        Refused: edgewright does not know the family.
    """
    edge = target.platform.edge_llm
    if edge is None:
        return [
            Violation(
                "format",
                f"{target.name} does not run TensorRT-Edge-LLM, which needs a Jetson",
                "--format onnx",
            )
        ]
    model = read_architecture(path)
    block = quantization(model.config)
    checkpoint = _Checkpoint(
        path,
        model,
        inventory(path, written_config(path)).tensors,
        str(block.get("quant_method")) if block else None,
        target.platform.int4,
        edge,
    )
    rules = (_model, _layout, _shapes, _int4, _order, _symmetry, _template)
    return [violation for rule in rules for violation in rule(checkpoint)]


def _model(checkpoint: _Checkpoint) -> Iterator[Violation]:
    """Model type and attention kernels."""
    return edge_llm_model(checkpoint.model, checkpoint.edge)


def _layout(checkpoint: _Checkpoint) -> Iterator[Violation]:
    if checkpoint.method is None:
        return
    near = "quantize with --method gptq, awq or smoothquant"
    if checkpoint.method not in READ:
        yield Violation(
            "layout",
            f"{checkpoint.method} checkpoints are read as unquantized, without a word",
            near,
        )
    if (quantization(checkpoint.config) or {}).get("dynamic"):
        yield Violation(
            "layout",
            "some layers have other bits or groups than the rest, and one scheme is read for all",
            "quantize without --kv-bits, --rule and --head-bits; not with --method mixed",
        )


def _shapes(checkpoint: _Checkpoint) -> Iterator[Violation]:
    """All layers must have the same sizes, as config.json has one field for each."""
    for module, wanted in checkpoint.model.linears().items():
        found = checkpoint.shape_of(module)
        if found is None:
            yield Violation("tensor", f"{module} has no weight", "restore the weights of the model")
        elif found != wanted:
            message = (
                f"{module} is {list(found)}, where config.json says {list(wanted)} for every layer"
            )
            yield Violation(
                "layer-shape", message, "prune the same number of heads and neurons in every layer"
            )


def _int4(checkpoint: _Checkpoint) -> Iterator[Violation]:
    if checkpoint.method not in ("gptq", "awq"):
        return
    bits, group, _ = packing(checkpoint.config) or (4, 128, True)
    if bits != 4:
        yield Violation(
            "precision",
            f"{bits}-bit {checkpoint.method} is not read; 8 bits are SmoothQuant's",
            "--bits 4, or --method smoothquant",
        )
    if group not in checkpoint.int4.group_sizes:
        known = ", ".join(map(str, checkpoint.int4.group_sizes))
        yield Violation(
            "int4-group",
            f"group size {group}; the kernel is built for {known}",
            f"--group-size {known}",
        )
    step = checkpoint.int4.multiple_of
    for module in checkpoint.model.linears():
        found = checkpoint.shape_of(module)
        if f"{module}.qweight" in checkpoint.specs and found and any(size % step for size in found):
            message = f"{module} is {list(found)}, and both sides must be multiples of {step}"
            yield Violation(
                "int4-shape", message, "prune to such widths, or keep this layer in fp16 (--rule)"
            )


def _order(checkpoint: _Checkpoint) -> Iterator[Violation]:
    """Groups must be consecutive inputs; others cost a gather before every product."""
    import torch  # late: only packed checkpoints need it

    from ..checkpoints.tensors import tensors_of

    _, group, _ = packing(checkpoint.config) or (4, 128, True)
    for name, g_idx in tensors_of(checkpoint.path, lambda name: name.endswith(".g_idx")):
        size = len(g_idx) if group == -1 else group
        if not torch.equal(g_idx.long(), torch.arange(len(g_idx)) // size):
            message = f"{name} reorders the inputs, which costs a gather before every product"
            yield Violation("int4-order", message, "quantize with static act-order, the default")
            return


def _symmetry(checkpoint: _Checkpoint) -> Iterator[Violation]:
    """Zero points must be 8; others are folded into the integers and clamped."""
    words = CENTRED.get(checkpoint.method or "")
    if words is None:
        return
    from ..checkpoints.tensors import tensors_of  # late: torch

    for name, zeros in tensors_of(checkpoint.path, lambda name: name.endswith(".qzeros")):
        if zeros.numel() and not any(bool((zeros == word).all()) for word in words):
            message = (
                f"{name} has zero points other than 8, which are folded into the integers and "
                "clamped"
            )
            yield Violation("int4-symmetric", message, "quantize with symmetric INT4, the default")
            return


def _template(checkpoint: _Checkpoint) -> Iterator[Violation]:
    if any((checkpoint.path / name).is_file() for name in CHAT_TEMPLATES):
        return
    tokenizer = checkpoint.path / "tokenizer_config.json"
    if not (tokenizer.is_file() and '"chat_template"' in tokenizer.read_text()):
        yield Violation(
            "chat-template",
            "no chat template, without which the exporter stops",
            "add chat_template.jinja to the directory",
        )


def commands(
    path: Path, target: Target, *, prompt: int = 1024, context: int = 4096
) -> dict[str, list[str]]:
    """The commands from a checkpoint to a benchmark, by JetPack release.

    Export and build must use the same version of TensorRT-Edge-LLM.

    Args:
        path: the checkpoint.
        target: the device.
        prompt: maximum number of tokens of a prompt.
        context: maximum number of tokens in the KV cache.
    """
    packed = quantization(read_architecture(path).config) is not None
    copied = [*host_commands(path, target, packed=packed), f"scp -r {path.name}-edge-llm DEVICE:"]
    return {
        name: [*copied, *device_commands(path, name, prompt=prompt, context=context)]
        for name in CUDA
    }


def host_commands(path: Path, target: Target, *, packed: bool) -> list[str]:
    """The commands that export a checkpoint, packed or not, to ONNX on any machine with pip."""
    # With less memory, the build on the device fits only if weights are stored outside.
    small = (target.memory.usable_bytes or 0) < 8 << 30
    externalize = " --externalize-weights int4_ffn" if small and packed else ""
    return [
        f"pip install {' '.join(map(shlex.quote, BESIDE))}",
        f"pip install --no-deps tensorrt-edgellm=={VERSION}   # its own pins want a GPU's torch",
        f"tensorrt-edgellm-export {path} {path.name}-edge-llm{externalize}",
    ]


def device_commands(
    path: Path, jetpack: str, *, prompt: int = 1024, context: int = 4096
) -> list[str]:
    """The commands that build and time an engine on a device; see `commands`.

    They run in the source folder of TensorRT-Edge-LLM.
    """
    bench = "./build/examples/llm/llm_bench --engineDir engine"
    repeat = "--batchSize 1 --warmup 3 --iterations 10"
    return [
        "cmake -S . -B build -DTRT_PACKAGE_DIR=/usr "
        "-DCMAKE_TOOLCHAIN_FILE=cmake/aarch64_linux_toolchain.cmake "
        f"-DEMBEDDED_TARGET=jetson-orin -DCUDA_CTK_VERSION={CUDA[jetpack]} -DENABLE_CUTE_DSL=ALL"
        f"   # TensorRT-Edge-LLM {VERSION}",
        "cmake --build build --parallel 4",
        f"./build/examples/llm/llm_build --onnxDir {path.name}-edge-llm/llm --engineDir engine "
        f"--maxBatchSize 1 --maxInputLen {prompt} --maxKVCacheCapacity {context}",
        f"{bench} --mode prefill --inputLen {prompt} {repeat}",
        f"{bench} --mode decode --pastKVLen {prompt} {repeat}",
    ]
