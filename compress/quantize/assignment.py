"""Assign a scheme (bits, group size, symmetry) to every weight matrix of a model, or none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ...checkpoints.scheme import Scheme, values_together
from ...errors import Refused, UsageError
from ...models import Architecture, require_expressible
from ...models.packed_tables import TableBytes
from .options import QuantizeOptions
from .rules import GROUP_SIZES, Rule, check_rules, stored_bytes

__all__ = [
    "Assignment",
    "assign_schemes",
    "check_shapes",
    "extra_bytes",
    "table_bytes",
    "with_kv_rules",
]


@dataclass(frozen=True)
class Assignment:
    """Schemes by full module name. A matrix without a scheme stays in floating point.

    Attributes:
        linears: schemes of the linear layers of the decoder.
        vocab: schemes of the embedding and the head; a tied pair is listed as the embedding.
        shapes: (out_features, in_features) of every matrix that could be quantized.
        head: full name of the head.
        skipped: linear layers that stay in floating point, and the head if it does.
    """

    linears: Mapping[str, Scheme]
    vocab: Mapping[str, Scheme]
    shapes: Mapping[str, tuple[int, int]]
    head: str
    skipped: tuple[str, ...]

    @property
    def schemes(self) -> dict[str, Scheme]:
        """The schemes of all quantized matrices."""
        return {**self.linears, **self.vocab}

    @property
    def quantized_bytes(self) -> int:
        """Bytes of all quantized matrices."""
        return sum(stored_bytes(self.shapes[name], scheme) for name, scheme in self.schemes.items())

    def dynamic(self, options: QuantizeOptions) -> dict[str, dict[str, int]]:
        """The `dynamic` field of a GPTQ config: patterns of names with other bits or groups.

        Readers use the first pattern that matches a name.
        """
        default = Scheme(options.bits, options.group_size, options.sym)
        patterns = {
            f"+:^{re.escape(name)}$": {"bits": scheme.bits, "group_size": scheme.group_size}
            for name, scheme in self.vocab.items()
            if scheme != default
        }
        for rule in options.rules:
            settings = {"bits": rule.bits, "group_size": rule.group_size}
            given = {key: value for key, value in settings.items() if value is not None}
            patterns.setdefault(f"{'-' if rule.skip else '+'}:{rule.pattern}", given)
        return patterns


def with_kv_rules(architecture: Architecture, options: QuantizeOptions) -> QuantizeOptions:
    """The options with rules for this model's keys and values, where `kv_bits` gives them bits.

    Queries that are stored with them get the same.
    """
    if options.kv_bits in (None, options.bits):
        return options
    names = dict.fromkeys(
        f"*.{projection.stored_name}"
        for layer in architecture.layers
        for projection in (layer.attention.k, layer.attention.v)
    )
    return options.with_rules(Rule(match=name, bits=options.kv_bits) for name in names)


def assign_schemes(architecture: Architecture, options: QuantizeOptions) -> Assignment:
    """Assign a scheme to every weight matrix of a model, from the options and their rules.

    Raises:
        UsageError: a rule that matches nothing, or an unknown group size.
        Refused: a method that experts do not allow, a width that its group size does not divide,
            or sizes that do not fill whole words.
    """
    _check_experts(architecture, options)
    embedding = architecture.embedding
    head = architecture.head
    shapes = architecture.linears()
    check_rules(options.rules, [*shapes, embedding, head])
    linears = {name: scheme for name in shapes if (scheme := options.scheme(name))}
    vocab = _vocab_schemes(architecture, options)
    skipped = tuple(
        name
        for name in (head, *shapes, *architecture.routers)
        if name not in linears and name not in vocab
    )
    shapes |= dict.fromkeys(
        [embedding] if architecture.tied else [embedding, head],
        (architecture.vocab_size, architecture.hidden_size),
    )
    check_shapes(
        {name: (scheme, shapes[name]) for name, scheme in {**linears, **vocab}.items()},
        "--group-size",
        leave_out=", or leave these out: --rule 'NAME=skip'",
    )
    return Assignment(linears, vocab, shapes, head, skipped)


def _check_experts(architecture: Architecture, options: QuantizeOptions) -> None:
    """Refuse methods that scale or clip weights, if the model has experts."""
    if options.scaling != "none" and options.method != "awq":
        require_expressible(architecture, "scaling", "config.json")
    elif options.method not in ("gptq", "rtn"):
        require_expressible(architecture, options.method, "config.json")


def _vocab_schemes(architecture: Architecture, options: QuantizeOptions) -> dict[str, Scheme]:
    """The schemes of the embedding and the head, where they are quantized."""
    embedding = options.vocab_scheme(architecture.embedding, options.embedding_bits)
    head = options.vocab_scheme(architecture.head, options.head_bits)
    if not architecture.tied:
        found = {architecture.embedding: embedding, architecture.head: head}
        return {name: scheme for name, scheme in found.items() if scheme}
    if embedding and head and embedding != head:
        raise UsageError(
            f"the head is tied to the embedding, so they cannot have different schemes "
            f"({embedding.bits} bit for the embedding, {head.bits} for the head)",
            "give one of the two, or the same for both",
        )
    shared = embedding or head
    return {architecture.embedding: shared} if shared else {}


def check_shapes(
    matrices: Mapping[str, tuple[Scheme, tuple[int, int]]], option: str, leave_out: str = ""
) -> None:
    """Refuse matrices whose sizes do not fit their scheme.

    Args:
        matrices: scheme and (out_features, in_features) by name. Names that differ only in a layer
            or expert number are reported once.
        option: the command-line option of the group size, for the message.
        leave_out: what else the user can do, appended to the advice.

    Raises:
        UsageError: an unknown group size.
        Refused: a width that its group size does not divide, or sizes that do not fill whole words.
    """
    for scheme, _ in matrices.values():
        if scheme.group_size not in GROUP_SIZES:
            raise UsageError(
                f"group size {scheme.group_size}: not supported",
                f"use {', '.join(map(str, GROUP_SIZES))}",
            )
    uneven = {
        (scheme.group_size, f"{_pattern(name)} ({k} inputs)")
        for name, (scheme, (_, k)) in matrices.items()
        if k % scheme.group(k)
    }
    if uneven:
        size = max(size for size, _ in uneven)
        raise Refused(
            f"group size {size} does not divide the width of "
            f"{', '.join(sorted(what for of, what in uneven if of == size))}",
            f"use a smaller {option}, or prune to a multiple of it",
        )
    ragged = set[tuple[int, str]]()
    for name, (scheme, (n, k)) in matrices.items():
        together = values_together(scheme.bits)
        if n % together or k % together:
            ragged.add((scheme.bits, f"{_pattern(name)} ({n} x {k})"))
    if ragged:
        bits = max(bits for bits, _ in ragged)
        together = values_together(bits)
        raise Refused(
            f"{bits}-bit integers are stored {together} at a time, which does not divide "
            f"{', '.join(sorted(what for of, what in ragged if of == bits))}",
            f"prune to multiples of {together}{leave_out}",
        )


def _pattern(name: str) -> str:
    """The name with stars for layer and expert numbers, so that a message names each kind once."""
    return re.sub(r"\.\d+\.", ".*.", name)


def extra_bytes(
    assignment: Assignment, architecture: Architecture, options: QuantizeOptions
) -> int:
    """Bytes of the linear layers beyond those with the step's bits and groups in all of them.

    The budget of `sensitivity` counts as spent.
    """
    default = Scheme(options.bits, options.group_size, options.sym)
    extra = sum(
        stored_bytes(shape, assignment.linears.get(name)) - stored_bytes(shape, default)
        for name, shape in architecture.linears().items()
    )
    if options.sensitivity:
        extra += options.sensitivity.bytes_of(assignment.quantized_bytes)
    return extra


def table_bytes(assignment: Assignment, architecture: Architecture) -> TableBytes | None:
    """Bytes of the embedding and the head; None: both stay in floating point."""
    if not assignment.vocab:
        return None
    shape = (architecture.vocab_size, architecture.hidden_size)
    embedding, head = (
        stored_bytes(shape, assignment.vocab.get(name))
        for name in (architecture.embedding, architecture.head)
    )
    return TableBytes(0, embedding) if architecture.tied else TableBytes(embedding, head)
