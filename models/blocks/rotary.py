"""How the position of a token enters attention: rotary angles, and a scale of the query.

Papers: RoFormer (arXiv 2104.09864, section 3.2), YaRN (arXiv 2309.00071), LongRoPE
(arXiv 2402.13753).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import log, sqrt
from typing import Any

from ...errors import Refused

__all__ = ["PositionScale", "Rotary", "RotaryRule"]

BASE = 10000.0
PRETRAINED = "original_max_position_embeddings"


@dataclass(frozen=True)
class PositionScale:
    """A scale of the query by its position: 1 + beta * log(1 + floor(position / length)).

    Attributes:
        beta: how fast it grows.
        length: positions after which it grows.
    """

    beta: float
    length: int


@dataclass(frozen=True)
class Rotary:
    """How positions rotate pairs of channels of queries and keys.

    Attributes:
        dim: channels of a head that are rotated, from the first on; the others stay.
        form: how frequencies are made: default, linear, dynamic, llama3, yarn, longrope, or
            ntk_alpha (Hunyuan calls it dynamic, but its `alpha` makes it fixed).
        base: of the frequencies.
        interleaved: whether channels 2i and 2i + 1 are a pair; else i and i + dim / 2.
        layer_type: which of the model's rotary tables it uses; None: all layers share one table.
        max_positions: the longest sequence that the model is made for; 0: unknown.
        settings: the other numbers of the form, as in `rope_parameters` of config.json.
    """

    dim: int
    form: str = "default"
    base: float = BASE
    interleaved: bool = False
    layer_type: str | None = None
    max_positions: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)

    @property
    def pairs(self) -> tuple[slice, slice]:
        """The first and the second channels of all pairs."""
        if self.interleaved:
            return slice(0, self.dim, 2), slice(1, self.dim, 2)
        return slice(0, self.dim // 2), slice(self.dim // 2, self.dim)

    @property
    def factor(self) -> float:
        """How many times longer sequences may be than those of the pretraining."""
        return float(self.settings.get("factor") or self._ratio)

    @property
    def pretrained_positions(self) -> int:
        """The longest sequence of the pretraining."""
        return int(self.settings.get(PRETRAINED) or self.max_positions)

    @property
    def attention_factor(self) -> float:
        """What cosine and sine are multiplied by (YaRN, section 3.4; LongRoPE, section 3.3)."""
        stated = self.settings.get("attention_factor")
        if self.form not in ("yarn", "longrope"):
            return 1.0
        if stated is not None:
            return float(stated)
        if self.form == "longrope":
            length = self.pretrained_positions
            return sqrt(1 + log(self.factor) / log(length)) if self.factor > 1 else 1.0
        scales = [float(self.settings.get(key) or 0) for key in ("mscale", "mscale_all_dim")]
        if all(scales):
            return _magnitude(self.factor, scales[0]) / _magnitude(self.factor, scales[1])
        return _magnitude(self.factor, 1.0)

    @property
    def _ratio(self) -> float:
        return self.max_positions / self.pretrained_positions if self.max_positions else 1.0


@dataclass(frozen=True)
class RotaryRule:
    """What a family says of rotary positions beside its config.json.

    Attributes:
        interleaved: see `Rotary`.
        share: `partial_rotary_factor` where config.json has none.
        partial: whether the family can rotate a part of a head.
        spellings: other names that it has for the forms.
    """

    interleaved: bool = False
    share: float = 1.0
    partial: bool = False
    spellings: Mapping[str, str] = field(default_factory=dict[str, str], hash=False)

    def read(
        self, config: Mapping[str, Any], head_dim: int, layer_type: str | None = None
    ) -> Rotary:
        """The rotary positions of a layer, from either spelling of config.json.

        transformers 5 has `rope_parameters`, perhaps one for each type of layer. transformers 4 has
        `rope_theta`, `rope_scaling` (with `type` for `rope_type`) and `rope_local_base_freq`.

        Args:
            config: with the family's defaults.
            head_dim: channels of a head.
            layer_type: see `Rotary`.

        Raises:
            Refused: a part of a head is rotated, and the family rotates whole heads.
        """
        block = _block(config, layer_type)
        form = str(block.get("rope_type") or block.get("type") or "default")
        form = self.spellings.get(form, form)
        if form == "dynamic" and block.get("alpha"):
            form = "ntk_alpha"
        share = self.share
        for place in (config, block):
            share = float(place.get("partial_rotary_factor") or share)
        if not self.partial and share != 1:
            if form != "default":
                raise Refused(
                    f"config.json: `partial_rotary_factor` is {share:g} with rope_type `{form}`, "
                    "and models of this family rotate whole heads: stock transformers fails too",
                    "restore the config.json of the model",
                )
            share = 1.0  # which stock transformers ignores here
        pretrained = config.get(PRETRAINED)
        return Rotary(
            int(head_dim * share),
            form,
            float(block.get("rope_theta") or BASE),
            self.interleaved,
            layer_type,
            int(config.get("max_position_embeddings") or 0),
            {**block, PRETRAINED: pretrained} if pretrained and not layer_type else block,
        )


def _block(config: Mapping[str, Any], layer_type: str | None) -> dict[str, Any]:
    """The rope block of a type of layer; it has `rope_theta`."""
    new: Mapping[str, Any] = config.get("rope_parameters") or {}
    old: Mapping[str, Any] = config.get("rope_scaling") or {}
    base = config.get("rope_theta")
    if layer_type is None:
        return {"rope_theta": base, **(old or new)}
    if layer_type == "sliding_attention":  # transformers 4 scales the layers that see all
        old = {}
        base = config.get("rope_local_base_freq") or base
    return {"rope_theta": base, **(new.get(layer_type) or {}), **old}


def _magnitude(factor: float, scale: float) -> float:
    """The growth of logits that a longer context asks for (YaRN, equation 22)."""
    return 0.1 * scale * log(factor) + 1.0 if factor > 1 else 1.0
