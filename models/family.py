"""Turns a config.json into decoder layers, by the rules of a family of models.

A family is one file in `families/`: an instance of `Family` with its data, or a small subclass
where a rule is more than data. The defaults of the data are Llama's: norms before the blocks,
rotary positions, grouped-query attention and a gated FFN, named as transformers names them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from .blocks import (
    Attention,
    AttentionSizes,
    DenseFFN,
    ExpertsFFN,
    Linear,
    Norm,
    PositionScale,
    Rotary,
    RotaryRule,
)
from .blocks.ffn import make_ffn
from .blocks.linear import fused
from .family_parts import QkNorm, Reach, Remaining
from .layer import Layer
from .sizes import Sizes

__all__ = ["ATTENTION_BIAS", "FFN_BIAS", "Family", "QkNorm", "Reach", "Remaining"]

ATTENTION = "self_attn"
MLP = "mlp"
PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
ATTENTION_BIAS = ("q", "k", "v", "o")
FFN_BIAS = ("gate", "up", "down")
ACTIVATIONS = {
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "swish": "silu",
}
"""Other spellings of the activations that are known here."""
EPSILON = 1e-6
SLIDING, FULL = "sliding_attention", "full_attention"
"""The types of layers in `layer_types`."""
PATTERNS = ("sliding_window_pattern", "_sliding_window_pattern")
"""How config.json spells of how many layers one has no window."""


@dataclass(frozen=True)
class Family:
    """The names and rules of one family: how its config.json describes a decoder.

    Attributes:
        model_type: what config.json calls it.
        defaults: the values that transformers takes for keys that a config.json leaves out.
        qk_norm: whether queries and keys are normed.
        qk_norm_rule: how.
        mixer_norm, ffn_norm: names of the norms before attention and FFN; None: there are none.
        mixer_post_norm, ffn_post_norm: names of the norms behind them; None: there are none.
        norm_offset: added to a norm's stored weight before it scales.
        norm_kind, norm_bias: see `Norm`.
        norm_epsilon: how config.json calls a norm's epsilon.
        parallel: whether attention and FFN read the same norm; there is no `ffn_norm` then.
        ffn_projections: names of the FFN's gate, up and down projection; None: it has no gate.
        fixed_activation: of the FFN, whatever config.json says; None: config.json says.
        biases: by switches of config.json, which of q, k, v, o, gate, up and down have a bias.
        windowed: whether it follows `sliding_window` and `layer_types`.
        full_every: of how many layers one has no window, if no `layer_types` say so; 0: none.
        rotary_by_type: whether layers with and without a window have rotary tables of their own.
        softcaps: whether it follows `attn_logit_softcapping` and `final_logit_softcapping`.
        head_counts: how many query heads stock transformers loads: any number, those that divide
            the width, or no other than the original.
        rotary_rule: what it says of rotary positions beside its config.json.
        fused_qkv, fused_gate_up: names of the linear layers that q, k and v, or gate and up, are
            stored as, one after the other; None: each of them is stored by itself.
        awq_activation: the module in a layer whose output AWQ files divide by stored scales; None:
            they have no such scales.
    """

    model_type: str
    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)
    qk_norm: bool = False
    qk_norm_rule: QkNorm = field(default_factory=QkNorm)
    mixer_norm: str | None = "input_layernorm"
    mixer_post_norm: str | None = None
    ffn_norm: str | None = "post_attention_layernorm"
    ffn_post_norm: str | None = None
    norm_offset: float = 0.0
    norm_kind: Literal["rms", "layer"] = "rms"
    norm_bias: bool = False
    norm_epsilon: str = "rms_norm_eps"
    parallel: bool = False
    ffn_projections: tuple[str | None, str, str] = PROJECTIONS
    fixed_activation: str | None = None
    biases: Mapping[str, Sequence[str]] = field(
        default_factory=lambda: {"attention_bias": ATTENTION_BIAS}, hash=False
    )
    windowed: bool = False
    full_every: int = 0
    rotary_by_type: bool = False
    softcaps: bool = False
    head_counts: Literal["any", "divisors", "fixed"] = "any"
    rotary_rule: RotaryRule = field(default_factory=RotaryRule)
    fused_qkv: str | None = None
    fused_gate_up: str | None = None
    awq_activation: str | None = None

    @property
    def decoder_layers(self) -> str:
        """The full name of the list of decoder layers."""
        return "model.layers"

    @property
    def embedding(self) -> str:
        """The full name of the embedding."""
        return "model.embed_tokens"

    @property
    def final_norm(self) -> str:
        """The full name of the norm behind the last layer."""
        return "model.norm"

    @property
    def rotary(self) -> str:
        """The full name of the module that makes rotary angles."""
        return "model.rotary_emb"

    @property
    def head(self) -> str:
        """The full name of the head."""
        return "lm_head"

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
        full = self.completed(config)
        return {name for key, names in self.biases.items() if full.get(key) for name in names}

    def reaches(self, config: Mapping[str, Any]) -> list[Reach]:
        """How far back each layer sees, and what it knows of positions."""
        full = self.completed(config)
        layers = range(int(full["num_hidden_layers"]))
        window = int(full.get("sliding_window") or 0) if self.windowed else 0
        types: Sequence[str] | None = full.get("layer_types") if self.windowed else None
        sliding = [kind == SLIDING for kind in types] if types else None
        slides = sliding or [bool(window) and self.slides(full, index) for index in layers]
        return [
            Reach(
                window if slides[index] else 0,
                (SLIDING if slides[index] else FULL) if self.rotary_by_type else None,
                self.rotates(full, index, slides[index]),
            )
            for index in layers
        ]

    def slides(self, full: Mapping[str, Any], index: int) -> bool:
        """Whether a layer has a window, if the model has one and no `layer_types` say so.

        Args:
            full: the config.json with all defaults.
            index: of the layer.
        """
        every = next((int(full[key]) for key in PATTERNS if full.get(key)), self.full_every)
        return not every or (index + 1) % every != 0

    def rotates(self, full: Mapping[str, Any], index: int, slides: bool) -> bool:
        """Whether a layer has rotary positions.

        Args:
            full: the config.json with all defaults.
            index: of the layer.
            slides: whether it has a window.
        """
        return True

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
        full = self.completed(config)
        name = str(full.get("hidden_act") or full.get("hidden_activation") or "silu")
        return self.fixed_activation or ACTIVATIONS.get(name, name)

    def embedding_scale(self, config: Mapping[str, Any]) -> float:
        """What embeddings are multiplied by."""
        return 1.0

    def residual_scale(self, config: Mapping[str, Any]) -> float:
        """What the output of a block is multiplied by."""
        return 1.0

    def logit_scale(self, config: Mapping[str, Any]) -> float:
        """What logits are multiplied by."""
        return 1.0

    def softcap(self, config: Mapping[str, Any], key: str) -> float | None:
        """The limit that config.json has under a key; None: no limit."""
        value = self.completed(config).get(key) if self.softcaps else None
        return float(value) if value else None

    def is_parallel(self, config: Mapping[str, Any]) -> bool:
        """Whether attention and FFN of a layer read the same norm."""
        return self.parallel

    def accepts_heads(self, config: Mapping[str, Any], heads: int) -> bool:
        """Whether stock transformers loads a model of this family with this many query heads."""
        sizes = self.sizes(config)
        if self.head_counts == "divisors":
            return sizes.hidden_size % heads == 0
        return self.head_counts == "any" or heads == sizes.num_attention_heads

    def norm(self, config: Mapping[str, Any], name: str, width: int) -> Norm:
        """A norm of this family."""
        epsilon = float(self.completed(config).get(self.norm_epsilon) or EPSILON)
        return Norm(name, width, epsilon, self.norm_offset, self.norm_kind, self.norm_bias)

    def layers(self, config: Mapping[str, Any]) -> tuple[Layer, ...]:
        """The decoder layers."""
        with_experts = self.expert_layers(config)
        dense = self.dense_ffn(config)
        experts = self.experts_ffn(config) if with_experts else dense
        width = self.sizes(config).hidden_size
        parallel = self.is_parallel(config)

        def norm(name: str | None) -> Norm | None:
            return self.norm(config, name, width) if name else None

        return tuple(
            Layer(
                index,
                f"{self.decoder_layers}.{index}",
                self.attention(config, reach),
                experts if index in with_experts else dense,
                norm(self.mixer_norm),
                None if parallel else norm(self.ffn_norm),
                norm(self.mixer_post_norm),
                norm(self.ffn_post_norm),
                self.residual_scale(config),
                parallel,
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
        q_norm, k_norm = self.qk_norms(config)
        q_proj, k_proj, v_proj = fused(
            self.fused_qkv,
            Linear(f"{ATTENTION}.q_proj", q, width, "q" in biased),
            Linear(f"{ATTENTION}.k_proj", kv, width, "k" in biased),
            Linear(f"{ATTENTION}.v_proj", kv, width, "v" in biased),
        )
        return Attention(
            ATTENTION,
            AttentionSizes(sizes.num_attention_heads, sizes.num_key_value_heads, head),
            q_proj,
            k_proj,
            v_proj,
            Linear(f"{ATTENTION}.o_proj", width, q, "o" in biased),
            self.query_scale(config),
            self.rotary_of(config, reach),
            reach.window,
            q_norm,
            k_norm,
            softcap=self.softcap(config, "attn_logit_softcapping"),
            causal=not config.get("use_bidirectional_attention"),
            position_scale=self.position_scale(config),
            norm_after_rotary=self.qk_norm_rule.after_rotary,
        )

    def qk_norms(self, config: Mapping[str, Any]) -> tuple[Norm | None, Norm | None]:
        """The norms of queries and of keys; None: there are none."""
        if not self.qk_norm:
            return None, None
        sizes, rule = self.sizes(config), self.qk_norm_rule
        counts = (sizes.num_attention_heads, sizes.num_key_value_heads) if rule.whole else (1, 1)
        q_norm, k_norm = (
            self.norm(config, f"{ATTENTION}.{name}", count * sizes.head_dim)
            for name, count in zip(rule.names, counts, strict=True)
        )
        return q_norm, k_norm

    def dense_ffn(self, config: Mapping[str, Any]) -> DenseFFN:
        """The FFN of a layer without experts."""
        sizes = self.sizes(config)
        widths = (sizes.intermediate_size, sizes.hidden_size)
        activation = self.activation(config)
        names, biased = self.ffn_projections, self.biased(config)
        return make_ffn(MLP, names, widths, activation, biased, self.fused_gate_up)

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
                SLIDING if reach.window else FULL for reach in reaches
            ]
            small["layer_types"] = [types[index] for index in remaining.layers]
        return small
