"""What llama.cpp can run: its architectures, and which of them can hold a model.

The facts are those of llama.cpp's source: `src/models/*.cpp` and `llama_model_rope_type`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .architecture import Architecture
from .blocks import Attention
from .export_format import Reason

__all__ = ["LlamaCpp", "llama_cpp", "llama_cpp_reasons", "rope_block"]

OTHER = "--format onnx"
QKV = ("q_proj", "k_proj", "v_proj")
ALL = (*QKV, "o_proj", "gate_proj", "up_proj", "down_proj")
LINEAR = ("default", "linear", "yarn")
TABLES = (*LINEAR, "llama3", "longrope")
YARN = {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": True}
"""The numbers of YaRN that llama.cpp always uses; a file cannot change them."""


@dataclass(frozen=True)
class LlamaCpp:
    """One architecture of llama.cpp.

    Attributes:
        name: `general.architecture` of the file.
        interleaved: whether it rotates neighbouring channels of a head. Otherwise it rotates the
            two halves of a head against each other.
        activation: the only one that its FFN computes.
        biases: the linear layers whose bias it reads.
        ropes: the ways of making rotary angles that a file can ask for.
        windows: whether layers can have a sliding window, and the file says which.
        softcaps: whether it limits scores and logits; None: it reads no limit.
        square: whether heads x head size must be the width.
        wide_layers: the layer count at which it divides scores by sqrt(width / heads) and not by
            sqrt(head size).
    """

    name: str
    interleaved: bool = False
    activation: str = "silu"
    biases: tuple[str, ...] = QKV
    ropes: tuple[str, ...] = LINEAR
    windows: bool = False
    softcaps: tuple[str, ...] = ()
    square: bool = False
    wide_layers: int = 0

    def query_scale(self, architecture: Architecture) -> float:
        """What it multiplies the product of query and key by."""
        sizes = architecture.attention_sizes
        if len(architecture.layers) == self.wide_layers:
            return float(architecture.hidden_size // sizes.heads) ** -0.5
        return float(sizes.head_dim) ** -0.5


LLAMA = LlamaCpp("llama", interleaved=True, biases=ALL, ropes=TABLES)
CANDIDATES: Mapping[str, tuple[LlamaCpp, ...]] = {
    "llama": (LLAMA,),
    "mistral": (LLAMA,),
    "qwen2": (LlamaCpp("qwen2", square=True), LLAMA),
    "qwen3": (LlamaCpp("qwen3"),),
    "gemma3_text": (
        LlamaCpp(
            "gemma3", activation="gelu_tanh", windows=True, softcaps=("logits",), wide_layers=62
        ),
    ),
}
"""By model type: the architectures of llama.cpp that compute the same, best first."""


def llama_cpp(architecture: Architecture) -> LlamaCpp:
    """The architecture of llama.cpp that a model is written as; see `llama_cpp_reasons`."""
    candidates = CANDIDATES[architecture.model_type]
    for candidate in candidates:
        if not any(_reasons(architecture, candidate)):
            return candidate
    return candidates[0]


def llama_cpp_reasons(architecture: Architecture) -> Iterator[Reason]:
    """Why llama.cpp cannot run a model; nothing: it can."""
    if architecture.model_type not in CANDIDATES:
        yield Reason(
            f"{architecture.model_type} models are not written as GGUF here",
            f"{OTHER}, or one of {', '.join(CANDIDATES)}",
        )
        return
    yield from _reasons(architecture, llama_cpp(architecture))


def rope_block(config: Mapping[str, Any], layer_type: str | None = None) -> Mapping[str, Any]:
    """The rotary parameters of a layer, in the spelling of transformers 4 or 5."""
    block: Mapping[str, Any] = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if layer_type in block:
        return block[layer_type] or {}
    return {} if layer_type == "sliding_attention" else block


def _reasons(architecture: Architecture, target: LlamaCpp) -> Iterator[Reason]:
    for check in (_sizes, _attention, _windows, _ropes, _linears, _softcaps):
        yield from check(architecture, target)


def _attentions(architecture: Architecture) -> list[Attention]:
    return [layer.attention for layer in architecture.layers]


def _sizes(architecture: Architecture, target: LlamaCpp) -> Iterator[Reason]:
    sizes = architecture.attention_sizes
    if target.square and sizes.heads * sizes.head_dim != architecture.hidden_size:
        yield Reason(
            f"{sizes.heads} heads of {sizes.head_dim} channels are not the width "
            f"{architecture.hidden_size}, as llama.cpp's {target.name} demands",
            OTHER,
        )


def _attention(architecture: Architecture, target: LlamaCpp) -> Iterator[Reason]:
    expected = target.query_scale(architecture)
    attentions = _attentions(architecture)
    if any(not attention.causal for attention in attentions):
        yield Reason("attention looks ahead, which is not written as GGUF here", OTHER)
    for attention in attentions:
        # A norm of the queries can take up the difference.
        if abs(attention.query_scale / expected - 1) > 1e-6 and not attention.q_norm:
            yield Reason(
                f"scores are multiplied by {attention.query_scale:.6g}, and llama.cpp's "
                f"{target.name} multiplies by {expected:.6g}",
                OTHER,
            )
            return


def _windows(architecture: Architecture, target: LlamaCpp) -> Iterator[Reason]:
    longest = architecture.max_positions
    windows = {attention.window for attention in _attentions(architecture) if attention.window}
    if target.windows and len(windows) > 1:
        yield Reason(f"layers have windows of different sizes: {sorted(windows)}", OTHER)
    if not target.windows and any(longest and window < longest for window in windows):
        yield Reason(
            f"has layers with a sliding window, which llama.cpp would not apply to a {target.name}",
            f"{OTHER}; or set max_position_embeddings in config.json to {min(windows)}, "
            "if no prompt is longer",
        )


def _ropes(architecture: Architecture, target: LlamaCpp) -> Iterator[Reason]:
    config = architecture.config
    for layer_type in {attention.rope_layer_type for attention in _attentions(architecture)}:
        block = rope_block(config, layer_type)
        kind = str(block.get("rope_type") or block.get("type") or "default")
        own = {key: block[key] for key in YARN if block.get(key, YARN[key]) != YARN[key]}
        if kind not in target.ropes:
            yield Reason(f"llama.cpp's {target.name} has no positions of type `{kind}`", OTHER)
        elif kind == "yarn" and own and "llama3" not in target.ropes:
            yield Reason(f"llama.cpp's {target.name} takes no {', '.join(own)} for YaRN", OTHER)
        elif layer_type == "sliding_attention" and kind != "default":
            yield Reason(f"llama.cpp does not apply `{kind}` to layers with a window", OTHER)


def _linears(architecture: Architecture, target: LlamaCpp) -> Iterator[Reason]:
    biased = {
        linear.name.rpartition(".")[2]
        for layer in architecture.layers
        for linear in layer.linears
        if linear.bias
    }
    if unread := sorted(biased - set(target.biases)):
        yield Reason(f"llama.cpp's {target.name} reads no bias of {', '.join(unread)}", OTHER)
    dense = (layer.dense_ffn for layer in architecture.layers)
    for activation in sorted({ffn.activation for ffn in dense if ffn}):
        if activation != target.activation:
            yield Reason(
                f"activation `{activation}`: llama.cpp's {target.name} computes "
                f"{target.activation}",
                OTHER,
            )


def _softcaps(architecture: Architecture, target: LlamaCpp) -> Iterator[Reason]:
    caps: Mapping[str, Callable[[], bool]] = {
        "scores": lambda: any(attention.softcap for attention in _attentions(architecture)),
        "logits": lambda: bool(architecture.logit_softcap),
    }
    for name, capped in caps.items():
        if capped() and name not in target.softcaps:
            yield Reason(f"llama.cpp's {target.name} sets no limit on {name}", OTHER)
