"""What becomes of every weight matrix of a model: the linear layers of the decoder, the embedding and the head."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ...checkpoints.layouts import Scheme
from ...checkpoints.layouts.packed import values_together
from ...errors import Refused, UsageError
from ...models import Architecture, require_expressible
from .options import QuantizeOptions
from .rules import check_rules, stored_bytes

__all__ = ["Assignment", "choose", "extra_bytes"]

GROUPS = (32, 64, 128, -1)


@dataclass(frozen=True)
class Assignment:
    """Schemes by full module name; what is not there stays in floating point.

    Attributes:
        layers: the linear layers of the decoder.
        tables: embedding and head; a tied pair is the embedding alone.
        shapes: (out_features, in_features) of everything that could be quantized.
        head: the full name of the head.
        kept: the linear layers that stay in floating point, the head among them where it does.
    """

    layers: Mapping[str, Scheme]
    tables: Mapping[str, Scheme]
    shapes: Mapping[str, tuple[int, int]]
    head: str
    kept: tuple[str, ...]

    @property
    def quantized_bytes(self) -> int:
        """Bytes of all that is quantized."""
        return sum(
            stored_bytes(self.shapes[name], scheme)
            for name, scheme in {**self.layers, **self.tables}.items()
        )

    def dynamic(self, options: QuantizeOptions) -> dict[str, dict[str, int]]:
        """What readers must know beside the step's own bits and group size: patterns of names, the first that matches counts."""
        own = Scheme(options.bits, options.group_size, options.sym)
        found = {
            f"+:^{re.escape(name)}$": _settings(scheme)
            for name, scheme in self.tables.items()
            if scheme != own
        }
        for rule in options.rules:
            settings = {"bits": rule.bits, "group_size": rule.group_size}
            said = {key: value for key, value in settings.items() if value is not None}
            found.setdefault(f"{'-' if rule.skip else '+'}:{rule.pattern}", said)
        return found


def _settings(scheme: Scheme) -> dict[str, int]:
    return {"bits": scheme.bits, "group_size": scheme.group_size}


def choose(architecture: Architecture, options: QuantizeOptions) -> Assignment:
    """The schemes of a model's weights.

    Raises:
        UsageError: a rule that matches nothing, or an unknown group size.
        Refused: what experts do not allow, a width that its group size does not divide, or sizes that do not fill stored words.
    """
    _check_experts(architecture, options)
    embedding, head, shapes = architecture.embedding, architecture.head, architecture.linears()
    check_rules(options.rules, [*shapes, embedding, head])
    layers = {name: scheme for name in shapes if (scheme := options.scheme(name))}
    tables = _tables(architecture, options)
    kept = tuple(
        name
        for name in (head, *shapes, *architecture.routers)
        if name not in layers and name not in tables
    )
    shapes |= dict.fromkeys(
        [embedding] if architecture.tied else [embedding, head],
        (architecture.vocab_size, architecture.hidden_size),
    )
    _check({name: (scheme, shapes[name]) for name, scheme in {**layers, **tables}.items()})
    return Assignment(layers, tables, shapes, head, kept)


def _check_experts(architecture: Architecture, options: QuantizeOptions) -> None:
    """Refuse what does not go with experts, whose weights are rounded as they are."""
    if options.method not in ("gptq", "rtn"):
        require_expressible(architecture, options.method, "config.json")
    elif options.scaling != "none":
        require_expressible(architecture, "scaling", "config.json")


def _tables(architecture: Architecture, options: QuantizeOptions) -> dict[str, Scheme]:
    """The schemes of embedding and head, where they are quantized."""
    embedding = options.table(architecture.embedding, options.embedding_bits)
    head = options.table(architecture.head, options.head_bits)
    if not architecture.tied:
        found = {architecture.embedding: embedding, architecture.head: head}
        return {name: scheme for name, scheme in found.items() if scheme}
    if embedding and head and embedding != head:
        raise UsageError(
            f"the head is tied to the embedding, and {embedding.bits} bit for one and {head.bits} for the other cannot both hold",
            "give one of the two, or the same",
        )
    both = embedding or head
    return {architecture.embedding: both} if both else {}


def _check(chosen: Mapping[str, tuple[Scheme, tuple[int, int]]]) -> None:
    for scheme, _ in chosen.values():
        if scheme.group_size not in GROUPS:
            raise UsageError(
                f"group size {scheme.group_size}: not supported",
                f"use {', '.join(map(str, GROUPS))}",
            )
    wide = {
        (s.group_size, f"{_kind(name)} ({k} inputs)")
        for name, (s, (_, k)) in chosen.items()
        if k % s.group(k)
    }
    if wide:
        size = max(size for size, _ in wide)
        raise Refused(
            f"group size {size} does not divide the width of {', '.join(sorted(what for of, what in wide if of == size))}",
            "use a smaller --group-size, or prune to a multiple of it",
        )
    ragged = set[tuple[int, str]]()
    for name, (scheme, (n, k)) in chosen.items():
        together = values_together(scheme.bits)
        if n % together or k % together:
            ragged.add((scheme.bits, f"{_kind(name)} ({n} x {k})"))
    if ragged:
        bits = max(bits for bits, _ in ragged)
        together = values_together(bits)
        raise Refused(
            f"{bits}-bit integers are stored {together} together, which does not divide "
            f"{', '.join(sorted(what for of, what in ragged if of == bits))}",
            f"prune to multiples of {together}, or leave these out: --rule 'NAME=skip'",
        )


def _kind(name: str) -> str:
    """The name with stars for the numbers of layer and expert, so that a message names each kind once."""
    return re.sub(r"\.\d+\.", ".*.", name)


def extra_bytes(architecture: Architecture, options: QuantizeOptions) -> int:
    """Bytes on disk beyond those of a model whose linear layers all have the step's bits and groups, and nothing else has.

    Raises:
        EdgewrightError: what `choose` raises.
    """
    choice = choose(architecture, options)
    own = Scheme(options.bits, options.group_size, options.sym)
    extra = 0
    for name, shape in choice.shapes.items():
        table = name in (architecture.embedding, architecture.head)
        usual = None if table else own
        scheme = (choice.tables if table else choice.layers).get(name)
        extra += stored_bytes(shape, scheme) - stored_bytes(shape, usual)
    return extra + (
        options.sensitivity.bytes_of(choice.quantized_bytes) if options.sensitivity else 0
    )
