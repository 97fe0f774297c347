"""Models and tokenizers in memory, from any checkpoint edgewright reads: floating point, or packed and dequantized."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..errors import EdgewrightError, Refused, UsageError
from ..models import has_module
from .config import quantization
from .files import check_finite, read_architecture, read_config, read_state
from .layouts import Int8Inputs, layout_of, rounds_inputs

__all__ = [
    "dense_state",
    "free_memory",
    "load_model",
    "load_settings",
    "load_tokenizer",
    "pick_device",
]


def pick_device(device: str) -> str:
    """`cpu` or `cuda`; `auto` takes a GPU where there is one.

    Raises:
        UsageError: cuda was asked for and there is none.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "--device cuda: this machine has no CUDA device that torch can use", "use --device cpu"
        )
    if device not in ("cpu", "cuda"):
        raise UsageError(f"--device {device}: unknown", "use auto, cpu or cuda")
    return device


def free_memory(device: str = "cpu") -> int | None:
    """Bytes that a device (and the CPU, where everything passes through) has free; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(
            1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")
        )
    except (OSError, StopIteration):
        return None
    return min(free, torch.cuda.mem_get_info()[0]) if device == "cuda" else free


def dense_state(path: Path) -> dict[str, Tensor]:
    """A checkpoint's tensors with every packed layer dequantized to float32."""
    return _unpacked(path)[0]


def _unpacked(path: Path) -> tuple[dict[str, Tensor], dict[str, Int8Inputs]]:
    """`dense_state`, and how those packed layers round their inputs that do, by name."""
    state, config, inputs = read_state(path), read_config(path), dict[str, Int8Inputs]()
    layout = layout_of(config, str(path))
    if layout is None:
        return state, inputs
    for name in layout.names(state):
        packed = layout.take(state, config["quantization_config"], name)
        state[f"{name}.weight"] = packed.dequantize()
        if packed.inputs:
            inputs[name] = packed.inputs
    return state, inputs


def load_settings(path: Path) -> Any:
    """The config as transformers reads it, with the defaults of the architecture filled in and no quantization block.

    Raises:
        UsageError: transformers refuses it.
    """
    from huggingface_hub.errors import StrictDataclassError  # late: slow to import
    from transformers import AutoConfig

    try:
        settings: Any = AutoConfig.from_pretrained(path)
    except (StrictDataclassError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise UsageError(
            f"{path}/config.json: transformers cannot read it: {reason}", "restore the config.json"
        ) from error
    if hasattr(settings, "quantization_config"):
        del settings.quantization_config
    return settings


def load_model(path: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """The causal language model of a checkpoint, in evaluation mode; a packed one needs no extra package.

    Layers that round their inputs to 8 bits do so here too, so that what is measured is what a device would compute.

    Raises:
        UsageError: the weights are damaged, hold NaN, or do not fit the config.
        Refused: a mixture of experts whose experts round their inputs.
    """
    from transformers import AutoModelForCausalLM  # late: slow to import
    from transformers.utils import logging

    logging.disable_progress_bar()  # ours tell what is going on

    architecture = read_architecture(path)
    settings = load_settings(path)
    if quantization(architecture.config):
        model = AutoModelForCausalLM.from_config(settings, dtype=dtype)
        state, rounded = _unpacked(path)
        if lost := [
            name for name in rounded if not has_module(model, name)
        ]:  # experts are parts of fused tensors
            raise Refused(
                f"{path}: {lost[0]}: experts whose inputs are rounded to 8 bits are not read here",
                "round their weights only",
            )
        missing, unexpected = model.load_state_dict(architecture.loaded(state), strict=False)
        for name, inputs in rounded.items():
            rounds_inputs(model.get_submodule(name), inputs)
        missing = [name for name in missing if name not in (model._tied_weights_keys or ())]
    else:
        check_finite(path)
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                path, config=settings, dtype=dtype, output_loading_info=True
            )
            model, report = loaded
        except (SafetensorError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"{path}: weights and config.json do not fit: {str(error).splitlines()[0]}",
                "restore the model",
            ) from error
        missing, unexpected = report["missing_keys"], report["unexpected_keys"]
    if missing or unexpected:
        what = (
            f"missing {sorted(missing)[:3]}" if missing else f"unexpected {sorted(unexpected)[:3]}"
        )
        raise UsageError(
            f"{path}: the weights do not match config.json: {what}", "restore the model directory"
        )
    return model.to(device).eval()


def load_tokenizer(path: Path) -> Any:
    """The tokenizer of a checkpoint or artifact, padding on the left with a token that exists."""
    from transformers import AutoTokenizer  # late: slow to import

    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EdgewrightError(
            f"{path}: no usable tokenizer: {reason}",
            "put the model's tokenizer files beside its weights",
        ) from error
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
