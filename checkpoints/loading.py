"""Models and tokenizers in memory, from floating-point and from packed checkpoints."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import EdgewrightError, Refused, UsageError
from ..models import WRAPPED_IN, has_module, is_buffer, text_config
from .config import end_tokens, quantization, read_architecture, read_config, read_json
from .files import check_finite, read_state
from .free_memory import free_memory
from .layouts import Int8Inputs, layout_of, rounds_inputs

__all__ = [
    "all_end_tokens",
    "check_names",
    "dense_state",
    "fits_in_memory",
    "load_model",
    "load_settings",
    "load_tokenizer",
    "pick_device",
    "stock_model",
    "tied_names",
]

PACKAGES = {"tokenizer.model": "sentencepiece", "tekken.json": "mistral-common"}
"""Packages that read a tokenizer without tokenizer.json, by the file that it has instead."""
VOCABULARIES = (
    "tokenizer.json",
    *PACKAGES,
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
"""Files that hold a tokenizer's vocabulary."""


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


def load_settings(path: Path) -> Any:
    """The config as transformers reads it, with the defaults of the architecture filled in.

    Of a wrapper, this is the config of the text model in it.
    It has no quantization block, and its tied weights are those of the files; see `read_config`.

    Raises:
        UsageError: transformers refuses it.
    """
    from transformers import AutoConfig  # late: slow to import

    config = read_config(path)
    try:
        settings: Any = (
            AutoConfig.for_model(**{k: v for k, v in config.items() if k != WRAPPED_IN})
            if config.get(WRAPPED_IN)
            else AutoConfig.from_pretrained(path)
        )
    except Exception as error:  # huggingface_hub and transformers have no common base for theirs
        raise UsageError(
            f"{path}/config.json: transformers cannot read it: {_reason(error)}",
            "restore the config.json",
        ) from error
    if hasattr(settings, "quantization_config"):
        del settings.quantization_config
    if config.get("tie_word_embeddings") is False:
        settings.tie_word_embeddings = False
    return settings


def _reason(error: BaseException) -> str:
    """The last line of a library's message, which says what is wrong, or the kind of the error."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


def load_model(path: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """The causal language model of a checkpoint, in evaluation mode; a packed one is dequantized.

    Layers that round their inputs to 8 bits do so here too, as they would on a device.

    Raises:
        UsageError: the weights are damaged, hold NaN, or do not fit the config.
        Refused: a mixture of experts whose experts round their inputs.
    """
    architecture = read_architecture(path)  # refuses what is not supported first
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
        loaded: Any = kind.from_pretrained(path, dtype=dtype, output_loading_info=True, **more)
    except Exception as error:  # transformers, torch and safetensors raise what they like
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UsageError(
            f"{path}: weights and config.json do not fit: {lines[0]}", "restore the model"
        ) from error
    model, report = loaded
    check_names(path, report["missing_keys"], report["unexpected_keys"])
    return model


def _from_tensors(path: Path, settings: Any, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM  # late: slow to import

    architecture = read_architecture(path)
    model = AutoModelForCausalLM.from_config(settings, dtype=dtype)
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


def load_tokenizer(path: Path) -> Any:
    """The tokenizer of a checkpoint or artifact, padding on the left with a token that exists.

    Where the tokenizer names no end token, it gets the one that the model's files name. Of several
    chat templates it keeps the default one, which may be none.

    Raises:
        EdgewrightError: the tokenizer cannot be loaded.
        UsageError: config.json is broken, or the tokenizer has tokens beyond the vocabulary.
    """
    from transformers import AutoTokenizer  # late: slow to import

    if not any((path / name).is_file() for name in VOCABULARIES):
        raise EdgewrightError(  # transformers would make an empty tokenizer
            f"{path}: no usable tokenizer: there is no tokenizer.json",
            "put the model's tokenizer files beside its weights",
        )
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path)
    except Exception as error:  # tokenizers raises bare exceptions, and others raise theirs
        raise _unusable(path, error) from error
    _check_vocabulary(path, tokenizer)
    tokenizer.padding_side = "left"
    ends = end_tokens(path) if tokenizer.eos_token_id is None else []
    if ends and (name := tokenizer.convert_ids_to_tokens(ends[0])) is not None:
        tokenizer.eos_token = name
    if isinstance(tokenizer.chat_template, dict):
        tokenizer.chat_template = tokenizer.chat_template.get("default")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _unusable(path: Path, error: Exception) -> EdgewrightError:
    """The error for a tokenizer that cannot be loaded; it may be config.json that is broken."""
    if (path / "config.json").is_file():
        load_settings(path)
    if not (path / "tokenizer.json").is_file():
        for name, package in PACKAGES.items():
            if (path / name).is_file():
                return EdgewrightError(
                    f"{path}: no usable tokenizer: there is no tokenizer.json, "
                    f"and {name} needs the package {package}",
                    f"add the tokenizer.json, or: pip install {package}",
                )
    return EdgewrightError(
        f"{path}: no usable tokenizer: {_reason(error)}",
        "put the model's tokenizer files beside its weights",
    )


def _check_vocabulary(path: Path, tokenizer: Any) -> None:
    """Stop where the tokenizer has tokens for which the model has no embedding."""
    file = path / "config.json"
    rows = text_config(read_json(file), str(file)).get("vocab_size") if file.is_file() else None
    if not isinstance(rows, int):
        return
    name, last = max(tokenizer.get_vocab().items(), key=lambda item: item[1], default=("", -1))
    if last >= rows:
        raise UsageError(
            f"{path}: tokenizer and model do not fit: "
            f"token `{name}` has id {last}, and the vocabulary {rows} rows",
            "use the model's own tokenizer files, or resize its embedding to the tokenizer",
        )


def all_end_tokens(named: Iterable[int], tokenizer: Any) -> list[int]:
    """The tokens that end an answer: those that a model's files name, and the tokenizer's own."""
    own = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    return sorted({*named, *own})
