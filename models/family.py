"""What a family of decoders is made of: module names, shapes and the small differences in arithmetic.

One `Family` a family, in its own small file. Everything else in the package asks a `Family` and knows no architecture's
names. All of them are pre-norm decoders with rotary positions and a gated FFN; what differs is data here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a plan needs shapes only, and torch takes seconds to import
    from torch import Tensor, nn

__all__ = ["Experts", "Family", "Fold", "LayerKind", "Shape", "has_module", "weight_of"]


@dataclass(frozen=True)
class LayerKind:
    """How one layer attends: over everything (`window` 0) or over the last `window` positions, and its rotary type."""

    window: int
    rope: str | None
    """The layer type that the model's rotary module is asked for; None where all layers share one."""


@dataclass(frozen=True)
class Fold:
    """A place where a factor on each input channel of linear layers can move into the operation before them.

    Names are relative to a decoder layer. The writer is a norm, or a linear layer whose outputs reach the readers through
    something that is linear in each channel by itself: attention for the values, the gate's product for `up`.
    """

    readers: tuple[str, ...]
    """All that reads the writer's output; they share one input."""
    writer: str
    norm: bool
    offset: float = 0.0
    """What is added to the norm's weight before it scales."""
    repeat: int = 1
    """Readers' heads, one after the other, that each head of the writer's output serves."""
    head_dim: int = 1
    """Channels of a head; they keep their order where a head is repeated."""


@dataclass(frozen=True)
class Experts:
    """The experts of a mixture, as its config.json gives them."""

    count: int
    """Experts in every layer that has some."""
    per_token: int
    size: int
    """Width of one expert's FFN."""
    layers: tuple[int, ...]
    """Those that have experts; the others are dense."""
    shared: int
    """Width of the expert that every token goes through beside its own; 0 where there is none."""
    renormalised: bool
    """Whether the weights of a token's experts are made to sum to one."""

    def used_by(self, tokens: int) -> float:
        """How many different experts of a layer so many tokens are expected to use, if all are chosen alike."""
        return self.count * (1 - (1 - self.per_token / self.count) ** tokens)


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder, as its config.json gives them."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tied: bool
    experts: Experts | None = None
    """None where every layer is dense."""

    @property
    def group(self) -> int:
        """Query heads that share one key/value head."""
        return self.num_attention_heads // self.num_key_value_heads

    @property
    def kv_bytes_per_token(self) -> int:
        """Elements of KV cache a token of context needs, over all layers (times the bytes of its dtype)."""
        return 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim


@dataclass(frozen=True)
class Family:
    """Names and arithmetic of one family. Module names are relative to a decoder layer unless they say otherwise."""

    model_types: tuple[str, ...]
    q: str = "self_attn.q_proj"
    k: str = "self_attn.k_proj"
    v: str = "self_attn.v_proj"
    o: str = "self_attn.o_proj"
    gate: str = "mlp.gate_proj"
    up: str = "mlp.up_proj"
    down: str = "mlp.down_proj"
    attention: str = "self_attn"
    mlp: str = "mlp"
    router: str = ""
    """The module that sends tokens to experts; empty where no layer of the family has any."""
    expert_pool: str = ""
    """The module that all experts of a layer are in, called with tokens, the numbers of their experts and the weights of those."""
    q_norm: str | None = None
    k_norm: str | None = None
    attention_norm: str = "input_layernorm"
    attention_post_norm: str | None = None
    mlp_norm: str = "post_attention_layernorm"
    mlp_post_norm: str | None = None
    layers: str = "model.layers"
    embedding: str = "model.embed_tokens"
    final_norm: str = "model.norm"
    rotary: str = "model.rotary_emb"
    head: str = "lm_head"
    norm_offset: float = 0.0
    """Added to a norm's weight before it scales (Gemma stores weight - 1)."""
    scale_embedding: bool = False
    """Multiply embeddings by the square root of the width (Gemma)."""
    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)
    """What transformers takes for keys that config.json leaves out, from the family's configuration class."""

    def completed(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A config.json with the family's defaults where it says nothing; an explicit null stays."""
        return {**self.defaults, **config}

    def shape(self, config: Mapping[str, Any]) -> Shape:
        """Read the sizes from a config.json; without a default `head_dim` falls back to width / heads as transformers does."""
        full = self.completed(config)
        heads = int(full["num_attention_heads"])
        return Shape(
            hidden_size=int(full["hidden_size"]),
            num_hidden_layers=int(full["num_hidden_layers"]),
            num_attention_heads=heads,
            num_key_value_heads=int(full.get("num_key_value_heads") or heads),
            head_dim=int(full.get("head_dim") or int(full["hidden_size"]) // max(heads, 1)),
            intermediate_size=int(full["intermediate_size"]),
            vocab_size=int(full["vocab_size"]),
            tied=bool(full.get("tie_word_embeddings", False)),
        )

    @property
    def input_groups(self) -> tuple[tuple[str, ...], ...]:
        """The linear layers of a decoder layer in order of execution, those that read the same input together."""
        return ((self.q, self.k, self.v), (self.o,), (self.gate, self.up), (self.down,))

    def folds(self, config: Mapping[str, Any]) -> tuple[Fold, ...]:
        """What stands before each of `input_groups` in a dense layer; values serve every query head of their group."""
        s = self.shape(config)
        return (
            Fold((self.q, self.k, self.v), self.attention_norm, norm=True, offset=self.norm_offset),
            Fold((self.o,), self.v, norm=False, repeat=s.group, head_dim=s.head_dim),
            Fold((self.gate, self.up), self.mlp_norm, norm=True, offset=self.norm_offset),
            Fold((self.down,), self.up, norm=False),
        )

    def linear_shapes(self, config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
        """Each kind of linear layer in a decoder layer with its (out_features, in_features); routers are left out."""
        s = self.shape(config)
        q, kv = s.num_attention_heads * s.head_dim, s.num_key_value_heads * s.head_dim
        return {
            self.q: (q, s.hidden_size),
            self.k: (kv, s.hidden_size),
            self.v: (kv, s.hidden_size),
            self.o: (s.hidden_size, q),
            self.gate: (s.intermediate_size, s.hidden_size),
            self.up: (s.intermediate_size, s.hidden_size),
            self.down: (s.hidden_size, s.intermediate_size),
        }

    def linear_counts(
        self, config: Mapping[str, Any], tokens: int | None = None
    ) -> dict[str, float]:
        """How many there are of each of `linear_shapes` in the whole model.

        Args:
            config: the config.json.
            tokens: count only the experts that so many tokens are expected to use; all of them if None.
        """
        return dict.fromkeys(self.linear_shapes(config), self.shape(config).num_hidden_layers)

    def linear_modules(self, config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
        """Every linear layer of the decoder by its full name in files, with its (out_features, in_features)."""
        shapes, layers = self.linear_shapes(config), range(self.shape(config).num_hidden_layers)
        return {self.full(index, name): shape for index in layers for name, shape in shapes.items()}

    def full(self, layer: int, name: str) -> str:
        """The full name of a module of decoder layer `layer`."""
        return f"{self.layers}.{layer}.{name}"

    def parameters(self, config: Mapping[str, Any]) -> int:
        """How many parameters a config.json describes, norms and biases included."""
        s, shapes, counts = (
            self.shape(config),
            self.linear_shapes(config),
            self.linear_counts(config),
        )
        linears = int(sum(counts[name] * n * k for name, (n, k) in shapes.items()))
        norms = 2 + (self.attention_post_norm is not None) + (self.mlp_post_norm is not None)
        layer = (
            norms * s.hidden_size
            + (2 * s.head_dim if self.q_norm else 0)
            + sum(shapes[name][0] for name in self.biased(config))
        )
        return (
            linears
            + s.num_hidden_layers * layer
            + s.hidden_size
            + s.vocab_size * s.hidden_size * (1 if s.tied else 2)
        )

    def biased(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """The linear layers of a decoder layer that carry a bias."""
        return (self.q, self.k, self.v, self.o) if config.get("attention_bias") else ()

    def resized(
        self,
        config: Mapping[str, Any],
        *,
        heads: int,
        kv_heads: int,
        ffn: int,
        layers: Sequence[int],
        experts: int = 0,
    ) -> dict[str, Any]:
        """The config.json after a cut, with `head_dim` spelled out so that stock loaders agree on it.

        Args:
            config: of the uncut model.
            heads: query heads that stay in every layer.
            kv_heads: key/value heads that stay in every layer.
            ffn: width of the FFN that stays.
            layers: indices of the layers that stay.
            experts: experts that stay in every layer that has some; 0 for all of them.
        """
        small = {
            **config,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": self.shape(config).head_dim,
            "intermediate_size": ffn,
            "num_hidden_layers": len(layers),
        }
        kinds = self.layer_kinds(config)
        if (
            config.get("layer_types") or len(set(kinds)) > 1
        ):  # a rule such as "every sixth" would not survive the cut
            types = config.get("layer_types") or [
                "sliding_attention" if kind.window else "full_attention" for kind in kinds
            ]
            small["layer_types"] = [types[i] for i in layers]
        return small

    def with_experts(self, config: Mapping[str, Any], count: int) -> Mapping[str, Any]:
        """The config.json with another number of experts in every layer that has some; of a dense family, as it is."""
        return config

    def stored(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors under the names and in the shapes that files have, from those of a loaded model or of one of its layers."""
        return dict(state)

    def fused(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of `stored`: tensors as a loaded model has them."""
        return dict(state)

    def accepts_heads(self, config: Mapping[str, Any], heads: int) -> bool:
        """Whether stock transformers loads a model of this family with so many query heads."""
        return True

    def layer_kinds(self, config: Mapping[str, Any]) -> list[LayerKind]:
        """How each layer attends."""
        return [LayerKind(0, None)] * int(config["num_hidden_layers"])

    def query_scale(self, config: Mapping[str, Any]) -> float:
        """What the product of query and key is multiplied by."""
        return float(self.shape(config).head_dim) ** -0.5

    def activation(self, config: Mapping[str, Any]) -> str:
        """`silu` or `gelu_tanh`."""
        name = str(config.get("hidden_act") or config.get("hidden_activation") or "silu")
        return {"gelu_pytorch_tanh": "gelu_tanh", "swish": "silu"}.get(name, name)

    def layer_list(self, model: nn.Module) -> list[nn.Module]:
        """The decoder layers of a loaded model."""
        return list(model.get_submodule(self.layers).children())

    def outputs(self, layer: nn.Module) -> tuple[str, ...]:
        """Those of `o` and `down` that a decoder layer has; one with experts has no `down`."""
        return tuple(name for name in (self.o, self.down) if has_module(layer, name))

    def groups_of(self, layer: nn.Module) -> tuple[tuple[str, ...], ...]:
        """`input_groups` of the linear modules that a decoder layer has; the projections of routed experts are none."""
        return tuple(group for group in self.input_groups if has_module(layer, group[0]))

    def weight_in(self, layer: nn.Module, name: str) -> Tensor:
        """The weight [out, in] of a linear layer by the name that `linear_shapes` has for it; writing to it changes the decoder layer."""
        return weight_of(layer.get_submodule(name))

    def routers(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """Full names, in files, of the linear layers that choose and weigh experts and are never packed."""
        return ()

    def weight(
        self, state: Mapping[str, Tensor], layer: int, name: str, part: str = "weight"
    ) -> Tensor | None:
        """A tensor of decoder layer `layer` from a state dict, or None where the model has none (a bias, say)."""
        return state.get(self.key(layer, name, part))

    def key(self, layer: int, name: str, part: str = "weight") -> str:
        """The state-dict key of a decoder layer's tensor."""
        return f"{self.layers}.{layer}.{name}.{part}"


def has_module(layer: nn.Module, name: str) -> bool:
    """Whether a module has a submodule of this dotted name."""
    try:
        return bool(layer.get_submodule(name))
    except AttributeError:
        return False


def weight_of(linear: nn.Module) -> Tensor:
    """The weight [out, in] of a linear module, without its gradient history; writing to it changes the module."""
    from torch import Tensor

    weight = linear.weight
    if not isinstance(weight, Tensor):
        raise TypeError(f"{type(linear).__name__} has no weight tensor")
    return weight.detach()
