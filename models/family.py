"""Turns a config.json into decoder layers, by the rules of a family of models.

A family is one file in `families/`: an instance of `Family` with its data, or a small subclass
where a rule is more than data. What is here holds for all of them: pre-norm decoders with rotary
positions, grouped-query attention and a gated FFN, named as transformers names them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .blocks import (
    Attention,
    AttentionSizes,
    ExpertsFFN,
    GatedFFN,
    Linear,
    Norm,
    PositionScale,
    Rotary,
    RotaryRule,
)
from .blocks.ffn import gated_ffn
from .blocks.linear import fused
from .layer import Layer
from .sizes import Sizes

__all__ = ["Family", "Reach", "Remaining"]

ATTENTION = "self_attn"
MLP = "mlp"
PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_tanh", "swish": "silu"}
"""Other spellings of the activations that are known here."""
EPSILON = 1e-6


@dataclass(frozen=True)
class Reach:
    """How far back the attention of one layer sees, and what it knows of positions.

    Attributes:
        window: positions that a token sees, itself included; 0: all before it.
        layer_type: which of the rotary tables it uses; None: all layers share one table.
        rotary: whether it has rotary positions; else it has none.
    """

    window: int
    layer_type: str | None = None
    rotary: bool = True


@dataclass(frozen=True)
class Remaining:
    """What remains of a model after a cut, the same in every layer.

    Attributes:
        heads: query heads.
        kv_heads: key/value heads.
        ffn: neurons of a dense FFN.
        layers: indices of the layers that stay.
        experts: experts; 0: all of them.
    """

    heads: int
    kv_heads: int
    ffn: int
    layers: Sequence[int]
    experts: int = 0


@dataclass(frozen=True)
class Family:
    """The names and rules of one family: how its config.json describes a decoder.

    Attributes:
        model_type: what config.json calls it.
        defaults: the values that transformers takes for keys that a config.json leaves out.
        qk_norm: whether queries and keys are normed, head by head.
        mixer_norm, ffn_norm: names of the norms before attention and FFN.
        mixer_post_norm, ffn_post_norm: names of the norms behind them; None: there are none.
        norm_offset: added to a norm's stored weight before it scales.
        rotary_rule: what it says of rotary positions beside its config.json.
        fused_qkv, fused_gate_up: names of the linear layers that q, k and v, or gate and up, are
            stored as, one after the other; None: each of them is stored by itself.
        prefix: of all names in files, if the decoder is a part of a larger model.
    """

    model_type: str
    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)
    qk_norm: bool = False
    mixer_norm: str = "input_layernorm"
    mixer_post_norm: str | None = None
    ffn_norm: str = "post_attention_layernorm"
    ffn_post_norm: str | None = None
    norm_offset: float = 0.0
    rotary_rule: RotaryRule = field(default_factory=RotaryRule)
    fused_qkv: str | None = None
    fused_gate_up: str | None = None
    prefix: str = ""

    @property
    def decoder_layers(self) -> str:
        """The full name of the list of decoder layers."""
        return f"{self.prefix}model.layers"

    @property
    def embedding(self) -> str:
        """The full name of the embedding."""
        return f"{self.prefix}model.embed_tokens"

    @property
    def final_norm(self) -> str:
        """The full name of the norm behind the last layer."""
        return f"{self.prefix}model.norm"

    @property
    def rotary(self) -> str:
        """The full name of the module that makes rotary angles."""
        return f"{self.prefix}model.rotary_emb"

    @property
    def head(self) -> str:
        """The full name of the head."""
        return f"{self.prefix}lm_head"

    def completed(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A config.json with the family's defaults for missing keys; an explicit null stays."""
        return {**self.defaults, **config}

    def sizes(self, config: Mapping[str, Any]) -> Sizes:
        """The sizes of the decoder."""
        return Sizes.read(self.completed(config))

    def expert_layers(self, config: Mapping[str, Any]) -> Collection[int]:
        """Indices of the layers that have experts; the others are dense."""
        return ()

    def biased(self, config: Mapping[str, Any]) -> Collection[str]:
        """Which of q, k, v, o, gate, up and down have a bias."""
        return ("q", "k", "v", "o") if config.get("attention_bias") else ()

    def reaches(self, config: Mapping[str, Any]) -> list[Reach]:
        """How far back each layer sees."""
        return [Reach(0)] * int(self.completed(config)["num_hidden_layers"])

    def rotary_of(self, config: Mapping[str, Any], reach: Reach) -> Rotary | None:
        """The rotary positions of a layer; None: it has none."""
        head = self.sizes(config).head_dim
        full = self.completed(config)
        return self.rotary_rule.read(full, head, reach.layer_type) if reach.rotary else None

    def position_scale(self, config: Mapping[str, Any]) -> PositionScale | None:
        """The scale of queries by their positions; None: there is none."""
        return None

    def query_scale(self, config: Mapping[str, Any]) -> float:
        """What the product of query and key is multiplied by."""
        return float(self.sizes(config).head_dim) ** -0.5

    def activation(self, config: Mapping[str, Any]) -> str:
        """The activation of the FFN: `silu`, `gelu_tanh`, or what config.json calls it."""
        name = str(config.get("hidden_act") or config.get("hidden_activation") or "silu")
        return ACTIVATIONS.get(name, name)

    def embedding_scale(self, config: Mapping[str, Any]) -> float:
        """What embeddings are multiplied by."""
        return 1.0

    def accepts_heads(self, config: Mapping[str, Any], heads: int) -> bool:
        """Whether stock transformers loads a model of this family with this many query heads."""
        return True

    def norm(self, config: Mapping[str, Any], name: str, width: int) -> Norm:
        """A norm of this family."""
        epsilon = float(self.completed(config).get("rms_norm_eps") or EPSILON)
        return Norm(name, width, epsilon, self.norm_offset)

    def layers(self, config: Mapping[str, Any]) -> tuple[Layer, ...]:
        """The decoder layers."""
        with_experts = self.expert_layers(config)
        dense = self.dense_ffn(config)
        experts = self.experts_ffn(config) if with_experts else dense
        width = self.sizes(config).hidden_size

        def norm(name: str | None) -> Norm | None:
            return self.norm(config, name, width) if name else None

        return tuple(
            Layer(
                index,
                f"{self.decoder_layers}.{index}",
                self.attention(config, reach),
                experts if index in with_experts else dense,
                self.norm(config, self.mixer_norm, width),
                self.norm(config, self.ffn_norm, width),
                norm(self.mixer_post_norm),
                norm(self.ffn_post_norm),
            )
            for index, reach in enumerate(self.reaches(config))
        )

    def attention(self, config: Mapping[str, Any], reach: Reach) -> Attention:
        """The attention block of a layer."""
        sizes = self.sizes(config)
        biased = self.biased(config)
        head = sizes.head_dim
        width = sizes.hidden_size
        q = sizes.num_attention_heads * head
        kv = sizes.num_key_value_heads * head
        cap = config.get("attn_logit_softcapping")
        norms = (f"{ATTENTION}.{name}" if self.qk_norm else None for name in ("q_norm", "k_norm"))
        q_norm, k_norm = (self.norm(config, name, head) if name else None for name in norms)
        readers = (
            Linear(f"{ATTENTION}.q_proj", q, width, "q" in biased),
            Linear(f"{ATTENTION}.k_proj", kv, width, "k" in biased),
            Linear(f"{ATTENTION}.v_proj", kv, width, "v" in biased),
        )
        if self.fused_qkv:
            readers = fused(self.fused_qkv, readers)
        return Attention(
            ATTENTION,
            AttentionSizes(sizes.num_attention_heads, sizes.num_key_value_heads, head),
            *readers,
            Linear(f"{ATTENTION}.o_proj", width, q, "o" in biased),
            self.query_scale(config),
            self.rotary_of(config, reach),
            reach.window,
            q_norm,
            k_norm,
            softcap=float(cap) if cap else None,
            causal=not config.get("use_bidirectional_attention"),
            position_scale=self.position_scale(config),
        )

    def dense_ffn(self, config: Mapping[str, Any]) -> GatedFFN:
        """The FFN of a layer without experts."""
        sizes = self.sizes(config)
        widths = (sizes.intermediate_size, sizes.hidden_size)
        ffn = gated_ffn(MLP, PROJECTIONS, widths, self.activation(config), self.biased(config))
        if not self.fused_gate_up:
            return ffn
        gate, up = fused(self.fused_gate_up, (ffn.gate, ffn.up))
        return replace(ffn, gate=gate, up=up)

    def experts_ffn(self, config: Mapping[str, Any]) -> ExpertsFFN:
        """The FFN of a layer with experts."""
        raise NotImplementedError(f"{self.model_type} has no experts")

    def resized(self, config: Mapping[str, Any], remaining: Remaining) -> dict[str, Any]:
        """The config.json after a cut; it states `head_dim`, so that all loaders agree."""
        small = {
            **config,
            "num_attention_heads": remaining.heads,
            "num_key_value_heads": remaining.kv_heads,
            "head_dim": self.sizes(config).head_dim,
            "intermediate_size": remaining.ffn,
            "num_hidden_layers": len(remaining.layers),
        }
        reaches = self.reaches(config)
        if config.get("layer_types") or len(set(reaches)) > 1:
            # List the layers, because a rule such as "every sixth layer" is wrong after a cut.
            types = config.get("layer_types") or [
                "sliding_attention" if reach.window else "full_attention" for reach in reaches
            ]
            small["layer_types"] = [types[index] for index in remaining.layers]
        return small
