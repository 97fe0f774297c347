"""What a config.json describes, as one frozen object: a list of layers, each made of blocks.

The rest of the package passes this object around and asks it. No torch is imported, because plans
read no weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..errors import Refused, UsageError
from .blocks import AttentionSizes, ExpertsFFN, Linear, Mixer, Norm
from .blocks.expert_storage import fuse_experts, split_experts
from .config_values import RESTORE, check_values
from .family import Remaining
from .family_lookup import embedding_and_head, family_of
from .layer import Layer
from .sizes import check_experts, check_sizes
from .wrappers import WRAPPED_IN, WRAPPERS

if TYPE_CHECKING:  # plans read sizes only, and torch takes seconds to import
    from torch import Tensor

__all__ = ["Architecture", "architecture"]


@dataclass(frozen=True)
class Architecture:
    """A decoder-only language model.

    Attributes:
        model_type: what config.json calls the family.
        config: the config.json as it was given, for those who write one.
        embedding: full name of the embedding in files.
        head: full name of the head in files, which do not hold a tied one.
        rotary: full name of the module that makes rotary angles.
        decoder_layers: full name of the list of decoder layers.
        hidden_size: width of the residual stream.
        intermediate_size: neurons of a dense FFN.
        vocab_size: tokens.
        max_positions: the longest sequence; None: config.json does not say.
        tied: whether the head is the embedding.
        embedding_scale: what embeddings are multiplied by.
        logit_scale: what logits are multiplied by.
        logit_softcap: a tanh limits logits to ± this value; None: no limit.
        final_norm: the norm behind the last layer, with its full name.
        layers: the decoder layers.
    """

    model_type: str
    config: Mapping[str, Any] = field(repr=False)
    embedding: str
    head: str
    rotary: str
    decoder_layers: str
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    max_positions: int | None
    tied: bool
    embedding_scale: float
    logit_scale: float
    logit_softcap: float | None
    final_norm: Norm
    layers: tuple[Layer, ...]
    _counts: dict[int | None, Mapping[Linear, float]] = field(
        default_factory=dict[int | None, Mapping[Linear, float]],
        init=False,
        repr=False,
        compare=False,
    )
    """Results of `linear_counts`, which plans ask for many times."""

    # Its linear layers

    def linears(self) -> dict[str, tuple[int, int]]:
        """Every linear layer of the decoder by its full name in files, with (out, in) features."""
        return {
            layer.full(linear.name): linear.shape
            for layer in self.layers
            for linear in layer.linears
        }

    def linear_counts(self, tokens: int | None = None) -> Mapping[Linear, float]:
        """How many linear layers there are of each kind, which is a name and a size.

        The experts of a layer are one kind, with `*` for their number.

        Args:
            tokens: count only the experts that this many tokens are expected to use; None: all.
        """
        if tokens in self._counts:
            return self._counts[tokens]
        found: dict[Linear, Counter[float]] = {}
        for layer in sorted(self.layers, key=lambda layer: layer.experts is not None):
            for linear, count in layer.linear_counts(tokens).items():
                found.setdefault(linear, Counter())[count] += 1
        self._counts[tokens] = {
            linear: sum(layers * count for count, layers in counts.items())
            for linear, counts in found.items()
        }
        return self._counts[tokens]

    def linear_weights(self, tokens: int | None = None) -> int:
        """Weights of the decoder's linear layers; given `tokens`, without those of idle experts."""
        return int(sum(n * linear.weights for linear, n in self.linear_counts(tokens).items()))

    @property
    def weights_of_all_kinds(self) -> int:
        """An upper bound of the weights of one decoder layer, for estimates of memory.

        It counts one of each kind of linear layer in the model, and all experts.
        """
        experts = self.experts
        routed = experts.expert("*").linears if experts else ()
        return sum(
            linear.weights * (experts.count if experts and linear in routed else 1)
            for linear in self.linear_counts()
        )

    @property
    def routers(self) -> tuple[str, ...]:
        """Full names in files of the layers that choose and weigh experts; never quantized."""
        return tuple(layer.full(name) for layer in self.layers for name in layer.routers)

    # Its size and its work

    @cached_property
    def parameters(self) -> int:
        """How many parameters it has, norms and biases included."""
        tables = self.vocab_size * self.hidden_size * (1 if self.tied else 2)
        return self.decoder_parameters + tables

    @property
    def decoder_parameters(self) -> int:
        """`parameters` without embedding and head."""
        return sum(layer.parameters for layer in self.layers) + self.final_norm.parameters

    def active_parameters(self, tokens: int = 1) -> int:
        """The parameters that a pass over this many tokens uses: all but those of idle experts."""
        return self.parameters - (self.linear_weights() - self.linear_weights(tokens))

    def state_elements(self, context: int, *, whole: bool = False) -> int:
        """Elements of KV cache or state of a sequence; see `Mixer.state_elements`."""
        return sum(
            n * mixer.state_elements(context, whole=whole) for mixer, n in self._mixers.items()
        )

    def state_bytes(
        self, context: int, batch: int = 1, *, element_bytes: int = 2, whole: bool = False
    ) -> int:
        """Bytes of KV cache or state for `batch` sequences of `context` tokens."""
        return self.state_elements(context, whole=whole) * batch * element_bytes

    def decode_macs(self, context: int) -> int:
        """Multiply-adds of one token, apart from linear layers, with `context` tokens cached."""
        return sum(n * mixer.decode_macs(context) for mixer, n in self._mixers.items())

    def prefill_macs(self, prompt: int) -> int:
        """Multiply-adds of a whole prompt, apart from linear layers."""
        return sum(n * mixer.prefill_macs(prompt) for mixer, n in self._mixers.items())

    @cached_property
    def _mixers(self) -> Mapping[Mixer, int]:
        """How many layers have each mixer; plans ask for the sums over layers many times."""
        return Counter(layer.mixer for layer in self.layers)

    # What all layers share

    @cached_property
    def attention_sizes(self) -> AttentionSizes:
        """The attention sizes that every layer has.

        Raises:
            Refused: layers differ, or one has no attention.
        """
        sizes = dict.fromkeys(layer.attention.sizes for layer in self.layers)
        if len(sizes) > 1:
            first, other = list(sizes)[:2]
            raise Refused(
                f"layers of this `{self.model_type}` differ in attention ({first} and {other}), "
                "and this needs the same sizes in all of them",
                "use a model whose layers are alike",
            )
        return next(iter(sizes))

    @cached_property
    def experts(self) -> ExpertsFFN | None:
        """The experts that every layer with experts has; None: every layer is dense.

        Raises:
            Refused: layers differ in their experts.
        """
        found = dict.fromkeys(layer.experts for layer in self.layers if layer.experts)
        if len(found) > 1:
            raise Refused(
                f"layers of this `{self.model_type}` differ in their experts, "
                "and this needs the same in all of them",
                "use a model whose layers are alike",
            )
        return next(iter(found), None)

    @property
    def expert_layers(self) -> tuple[int, ...]:
        """Indices of the layers that have experts."""
        return tuple(layer.index for layer in self.layers if layer.experts)

    def summary(self) -> dict[str, Any]:
        """The sizes that all layers share, as artifacts and `--json` report them."""
        sizes = self.attention_sizes
        experts = self.experts
        return {
            "hidden_size": self.hidden_size,
            "num_hidden_layers": len(self.layers),
            "num_attention_heads": sizes.heads,
            "num_key_value_heads": sizes.kv_heads,
            "head_dim": sizes.head_dim,
            "intermediate_size": self.intermediate_size,
            "vocab_size": self.vocab_size,
            "tied": self.tied,
            "experts": {
                "count": experts.count,
                "per_token": experts.per_token,
                "size": experts.size,
                "layers": self.expert_layers,
                "shared": experts.shared.size if experts.shared else 0,
                "renormalised": experts.renormalize,
            }
            if experts
            else None,
        }

    # Cutting it

    def accepts_heads(self, heads: int) -> bool:
        """Whether stock transformers loads it with this many query heads."""
        if self.fixed_heads:
            return heads == self.attention_sizes.heads
        return family_of(self.config).accepts_heads(self.config, heads)

    @property
    def fixed_heads(self) -> bool:
        """Whether stock transformers loads it with no other number of query heads."""
        wrapper = WRAPPERS.get(str(self.config.get(WRAPPED_IN)))
        fixed = wrapper is not None and wrapper.fixed_heads
        return fixed or family_of(self.config).head_counts == "fixed"

    def resized(
        self, *, heads: int, kv_heads: int, ffn: int, layers: Sequence[int], experts: int = 0
    ) -> Architecture:
        """The architecture after a cut; its config is what the cut model's config.json must be.

        Args:
            heads: query heads that stay in every layer.
            kv_heads: key/value heads that stay in every layer.
            ffn: neurons of a dense FFN that stay.
            layers: indices of the layers that stay.
            experts: experts that stay in every layer that has some; 0: all.
        """
        remaining = Remaining(heads, kv_heads, ffn, layers, experts)
        return architecture(family_of(self.config).resized(self.config, remaining))

    def with_config(self, **changes: Any) -> Architecture:
        """The architecture of the same config.json with other values for some keys."""
        return architecture({**self.config, **changes})

    # Tensors in files and in memory

    def stored(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors under the names and in the shapes that files have, from those of a loaded model.

        Args:
            state: tensors of the model or of one of its layers, by name.
        """
        return split_experts(self.experts, state) if self.experts else dict(state)

    def loaded(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of `stored`: tensors as a loaded model has them."""
        return fuse_experts(self.experts, state) if self.experts else dict(state)


def architecture(config: Mapping[str, Any], where: str = "config.json") -> Architecture:
    """The architecture that a config.json describes.

    Args:
        config: the parsed config.json.
        where: its name in messages.

    Raises:
        UsageError: no model type, or a size is missing or impossible.
        Refused: the architecture is not supported.
    """
    family = family_of(config, where)
    check_values(config, where)
    try:
        sizes = family.sizes(config)
        check_sizes(sizes, where)
        layers = family.layers(config)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise UsageError(f"{where}: {error} is missing or not a number", RESTORE) from error
    for experts in dict.fromkeys(layer.experts for layer in layers if layer.experts):
        check_experts(experts, where)
    tables = embedding_and_head(config)
    positions = config.get("max_position_embeddings")
    return Architecture(
        model_type=family.model_type,
        config=config,
        embedding=family.embedding,
        head=family.head,
        rotary=family.rotary,
        decoder_layers=family.decoder_layers,
        hidden_size=sizes.hidden_size,
        intermediate_size=sizes.intermediate_size,
        vocab_size=sizes.vocab_size,
        max_positions=int(positions) if positions else None,
        tied=tables.tied,
        embedding_scale=family.embedding_scale(config),
        logit_scale=tables.logit_scale,
        logit_softcap=tables.logit_softcap,
        final_norm=family.norm(config, family.final_norm, sizes.hidden_size),
        layers=layers,
    )
