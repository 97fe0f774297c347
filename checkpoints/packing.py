"""Reads the quantization block of a config.json: bits, group size and symmetry of the weights.

All fields of the block count. This is the one place that knows which methods can be read. Any other
is refused by name: weights read by the rules of another method would silently give another model.
Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import regex

from ..errors import Refused, UsageError
from .scheme import Scheme

__all__ = [
    "METHODS",
    "SMOOTHQUANT",
    "check_block",
    "override",
    "scheme_of",
    "stores_plain_zeros",
]

SMOOTHQUANT = "W8A8_SQ_PER_CHANNEL"
"""The one algorithm of ModelOpt that is read: INT8 weights, INT8 inputs on a fixed scale."""
SECONDS = 2.0
"""The longest that a pattern of a config.json may take for one name."""
Block = Mapping[str, Any]


def check_block(block: Block, where: str) -> None:
    """Accept a quantization block whose weights can be read.

    Args:
        block: `quantization_config` of a config.json.
        where: the file, for the message.

    Raises:
        Refused: its method, or a variant of it, is not read here.
        UsageError: a field that the method needs is missing.
    """
    scheme_of(block, "", where)


def scheme_of(block: Block, name: str, where: str = "config.json") -> Scheme:
    """Bits, group size and symmetry that a quantization block gives the linear layer `name`.

    Raises:
        Refused, UsageError: as `check_block`.
    """
    method = str(block.get("quant_method"))
    if method not in METHODS:
        raise Refused(
            f"{where}: quantized with {method}, which is not read here",
            f"use one of {', '.join(METHODS)}, or the floating-point checkpoint",
        )
    return METHODS[method](block, name, where)


def stores_plain_zeros(block: Block) -> bool:
    """Whether a GPTQ block says `gptq_v2`: zero points are stored unchanged, and not minus one."""
    return _gptq_format(block) == "gptq_v2"


def override(block: Block, name: str) -> Block:
    """What the `dynamic` part of a quantization block says of one module; empty: nothing.

    Patterns match from the beginning of the name, and the first that matches counts (GPTQModel).
    """
    patterns: Mapping[str, Block] = block.get("dynamic") or {}
    first = next((pattern for pattern in patterns if _matches(pattern, name)), None)
    return patterns[first] if first is not None else {}


def _matches(pattern: str, name: str) -> bool:
    """Whether a pattern of `dynamic` matches; a pattern of others may take for ever, or be none."""
    try:
        found = regex.match(pattern.removeprefix("-:").removeprefix("+:"), name, timeout=SECONDS)
    except (regex.error, TimeoutError) as error:
        raise UsageError(
            f"config.json: quantization_config: dynamic: the pattern `{pattern}` cannot be "
            f"matched: {error}",
            "restore the config.json",
        ) from error
    return found is not None


def _gptq(block: Block, name: str, where: str) -> Scheme:
    found = _gptq_format(block)
    if found not in ("gptq", "gptq_v2"):
        raise _unreadable(where, f"gptq in the format {found}", "the formats gptq and gptq_v2")
    if (words := str(block.get("pack_dtype", "int32"))) != "int32":
        raise _unreadable(where, f"gptq packed into {words}", "words of int32")
    said = {**block, **override(block, name)}
    bits = _number(said, where, "bits")
    if bits not in (2, 3, 4, 8):
        raise _unreadable(where, f"gptq in {bits} bits", "2, 3, 4 or 8 bits")
    group_size = _number(said, where, "group_size", default=128)
    return Scheme(bits, group_size, bool(said.get("sym", True)))


def _gptq_format(block: Block) -> str:
    if block.get("is_marlin_format"):
        return "marlin"
    return str(block.get("checkpoint_format") or block.get("format") or "gptq").lower()


def _awq(block: Block, name: str, where: str) -> Scheme:
    version = str(block.get("version") or block.get("format") or "gemm").lower()
    if version != "gemm" or block.get("backend") == "llm-awq":
        found = version if version != "gemm" else "llm-awq"
        raise _unreadable(where, f"awq in the version {found}", "the version gemm")
    bits = _number(block, where, "bits", "w_bit", default=4)
    if bits != 4:
        raise _unreadable(where, f"awq in {bits} bits", "4 bits")
    group_size = _number(block, where, "group_size", "q_group_size", default=128)
    return Scheme(bits, group_size, bool(block.get("sym", not block.get("zero_point", True))))


def _compressed_tensors(block: Block, name: str, where: str) -> Scheme:
    readable = "8-bit integers, symmetric: weights by channel, inputs dynamic by token"
    groups: Mapping[str, Block] = block.get("config_groups") or {}
    for group in groups.values():
        weights = group.get("weights") or {}
        inputs = group.get("input_activations") or {}
        kind = (
            weights.get("num_bits"),
            weights.get("type"),
            weights.get("strategy"),
            inputs.get("strategy"),
            inputs.get("dynamic"),
        )
        symmetric = weights.get("symmetric") and inputs.get("symmetric")
        rounds_outputs = group.get("output_activations") is not None
        if kind != (8, "int", "channel", "token", True) or not symmetric or rounds_outputs:
            raise _unreadable(where, f"compressed-tensors {_named(weights, inputs)}", readable)
    if not groups:
        raise _unreadable(where, "compressed-tensors without config_groups", readable)
    sparse = (block.get("sparsity_config") or {}).get("format", "dense")
    more = {
        f"format {block.get('format')}": block.get("format", "int-quantized")
        not in ("int-quantized", "naive-quantized"),
        f"sparsity format {sparse}": sparse != "dense",
        "kv_cache_scheme": block.get("kv_cache_scheme") is not None,
        "transform_config": bool(block.get("transform_config")),
    }
    if found := [what for what, there in more.items() if there]:
        raise _unreadable(where, f"compressed-tensors with {', '.join(found)}", readable)
    return Scheme(8, -1, True)


def _named(weights: Block, inputs: Block) -> str:
    """A scheme of compressed-tensors as its users call it, as in `w4a16 (int, group)`."""
    sym = "" if weights.get("symmetric") else ", asymmetric"
    kind = f"{weights.get('type')}, {weights.get('strategy')}{sym}"
    return f"w{weights.get('num_bits')}a{inputs.get('num_bits', 16)} ({kind})"


def _modelopt(block: Block, name: str, where: str) -> Scheme:
    if block.get("quant_algo") != SMOOTHQUANT:
        raise _unreadable(where, f"modelopt {block.get('quant_algo')}", SMOOTHQUANT)
    return Scheme(8, -1, True)


METHODS: dict[str, Callable[[Block, str, str], Scheme]] = {
    "gptq": _gptq,
    "awq": _awq,
    "compressed-tensors": _compressed_tensors,
    "modelopt": _modelopt,
}
"""By the `quant_method` of config.json."""


def _number(block: Block, where: str, *names: str, default: int | None = None) -> int:
    value = next((block[name] for name in names if block.get(name) is not None), default)
    try:
        return int(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{where}: quantization_config has no number `{names[0]}`", "restore the config.json"
        ) from error


def _unreadable(where: str, what: str, instead: str) -> Refused:
    return Refused(
        f"{where}: quantized with {what}, which is not read here",
        f"use {instead}, or the floating-point checkpoint",
    )
