"""Models and tokenizers in memory, from floating-point and from packed checkpoints."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import Refused, UsageError
from ..models import WRAPPED_IN, Architecture, has_module, is_buffer
from .config import quantization, read_architecture, read_config
from .free_memory import free_memory
from .layouts import Int8Inputs, layout_of, rounds_inputs
from .settings import load_settings, reason
from .tensors import check_finite, read_state, stored_tensors

__all__ = [
    "built_model",
    "check_names",
    "dense_state",
    "fits_in_memory",
    "load_model",
    "pick_device",
    "stock_model",
    "tied_names",
]

WEIGHTS_PER_BYTE = 8
"""The most parameters that a stored byte can hold: no layout has less than one bit each."""


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


def dense_state(path: Path) -> dict[str, Tensor]:
    """A checkpoint's tensors with every packed layer dequantized to float32."""
    return _unpacked(path)[0]


def _unpacked(path: Path) -> tuple[dict[str, Tensor], dict[str, Int8Inputs]]:
    """`dense_state`, and by name the rounding of inputs in those packed layers that round them."""
    state = read_state(path)
    config = read_config(path)
    inputs = dict[str, Int8Inputs]()
    layout = layout_of(config, str(path))
    if layout is None:
        return state, inputs
    for name in layout.names(state):
        packed = layout.take(state, config["quantization_config"], name)
        state[f"{name}.weight"] = packed.dequantize()
        if packed.inputs:
            inputs[name] = packed.inputs
    return state, inputs


def load_model(path: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """The causal language model of a checkpoint, in evaluation mode; a packed one is dequantized.

    Layers that round their inputs to 8 bits do so here too, as they would on a device.

    Raises:
        UsageError: the weights are damaged, hold NaN, or do not fit the config.
        Refused: a mixture of experts whose experts round their inputs.
    """
    architecture = read_architecture(path)  # refuses what is not supported first
    _check_size(path, architecture)
    settings = load_settings(path)
    if quantization(architecture.config) or architecture.config.get(WRAPPED_IN):
        return _from_tensors(path, settings, dtype).to(device).eval()
    check_finite(path)
    return _from_files(path, dtype, config=settings).to(device).eval()


def stock_model(path: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The model of a floating-point checkpoint as anybody would load it, to compare others with.

    Which files are read, and which weights are tied, is transformers' decision and not ours. Of a
    wrapper, this is the whole model.

    Raises:
        UsageError: transformers refuses it, or finds other weights than its config.json describes.
    """
    wrapped = bool(read_config(path).get(WRAPPED_IN))
    return _from_files(path, dtype, wrapped=wrapped).eval()


def _from_files(path: Path, dtype: torch.dtype, *, wrapped: bool = False, **more: Any) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText  # late: slow
    from transformers.utils import logging

    kind = AutoModelForImageTextToText if wrapped else AutoModelForCausalLM
    logging.disable_progress_bar()  # there are progress bars of our own
    try:
        loaded: Any = kind.from_pretrained(
            path, dtype=dtype, output_loading_info=True, trust_remote_code=False, **more
        )
    except Exception as error:  # transformers, torch and safetensors raise what they like
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UsageError(
            f"{path}: weights and config.json do not fit: {lines[0]}", "restore the model"
        ) from error
    model, report = loaded
    check_names(path, report["missing_keys"], report["unexpected_keys"])
    return model


def _check_size(path: Path, architecture: Architecture) -> None:
    """Stop before memory is taken for a model that is far larger than its files."""
    parameters = architecture.parameters
    stored = sum(tensor.nbytes for tensor in stored_tensors(path).values())
    if parameters > WEIGHTS_PER_BYTE * stored:
        raise UsageError(
            f"{path}: the weights do not match config.json: it describes {parameters:,} "
            f"parameters, and the files hold {stored:,} bytes",
            "restore the model directory",
        )


def _from_tensors(path: Path, settings: Any, dtype: torch.dtype) -> Any:
    architecture = read_architecture(path)
    model = built_model(path, settings, dtype)
    state, rounded = _unpacked(path)
    if lost := [name for name in rounded if not has_module(model, name)]:
        # Experts are parts of fused tensors, and no modules that could round.
        raise Refused(
            f"{path}: {lost[0]}: experts whose inputs are rounded to 8 bits are not read here",
            "round their weights only",
        )
    missing, unexpected = model.load_state_dict(architecture.loaded(state), strict=False)
    for name, inputs in rounded.items():
        rounds_inputs(model.get_submodule(name), inputs)
    check_names(path, set(missing) - tied_names(model), unexpected)
    return model


def check_names(path: Path, missing: Iterable[str], unexpected: Iterable[str]) -> None:
    """Accept a checkpoint whose tensors are those of its model; stored buffers do not count.

    Raises:
        UsageError: naming the first tensors that are missing, or too many.
    """
    missing = sorted(missing)
    surplus = sorted(n for n in unexpected if not is_buffer(n))
    if missing or surplus:
        what = f"missing {missing[:3]}" if missing else f"unexpected {surplus[:3]}"
        raise UsageError(
            f"{path}: the weights do not match config.json: {what}", "restore the model directory"
        )


def tied_names(model: Any) -> set[str]:
    """Names in a model's state that are second names of another tensor, such as a tied head."""
    return set(model._tied_weights_keys or ()) if model.config.tie_word_embeddings else set()


def fits_in_memory(parameters: int, device: str = "cpu") -> bool:
    """Whether a model of this size takes at most half of the free memory in float32."""
    free = free_memory(device)
    return free is None or 4 * parameters <= free / 2


def built_model(path: Path, settings: Any, dtype: torch.dtype = torch.float32) -> Any:
    """The model that transformers makes of a config, without the weights of its files.

    Args:
        path: of the checkpoint, for messages.
        settings: see `load_settings`.
        dtype: of its parameters.

    Raises:
        UsageError: transformers refuses the config.
    """
    from transformers import AutoModelForCausalLM  # late: slow to import

    try:
        return AutoModelForCausalLM.from_config(settings, dtype=dtype, trust_remote_code=False)
    except Exception as error:  # transformers raises what it likes
        raise UsageError(
            f"{path}/config.json: transformers cannot build the model: {reason(error)}",
            "restore the config.json",
        ) from error
