"""What llama.cpp can run: its architectures, and which of them can hold a model.

The facts are those of llama.cpp's source: `src/models/*.cpp` and `llama_model_rope_type`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import sqrt
from typing import Literal

from .architecture import Architecture
from .blocks import Attention
from .blocks.rotary import Rotary
from .export_format import Reason
from .layer import Layer

__all__ = ["YARN", "LlamaCpp", "llama_cpp", "llama_cpp_reasons"]

OTHER = "--format onnx"
QKV = ("q", "k", "v")
ALL = (*QKV, "o", "gate", "up", "down")
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
        rotary_forms: the forms of rotary positions that a file can ask for.
        partial: whether it can rotate a part of a head.
        unrotated: the layers without positions: none, every fourth, or those that see everything
            in a model with windows.
        position_scale: whether it can scale queries by position.
        fused: whether it reads q, k and v, and gate and up, as they are stored fused.
        windows: whether layers can have a sliding window, and the file says which.
        window_layers: the only layer count with which it has windows; 0: any.
        needs_windows: whether it cannot do without.
        softcaps: what it limits: `scores`, `logits`.
        always_capped: whether it sets these limits if the file does not.
        square: whether heads x head size must be the width.
        wide_layers: the layer count at which it divides scores by sqrt(width / heads) and not by
            sqrt(head size).
        root_embedding: whether it multiplies embeddings by the root of the width.
        scales: whether the file says what embeddings, scores and residuals are multiplied by.
        logit_scale: what it does to logits with the number in the file.
    """

    name: str
    interleaved: bool = False
    activation: str = "silu"
    biases: tuple[str, ...] = QKV
    rotary_forms: tuple[str, ...] = LINEAR
    partial: bool = True
    unrotated: Literal["", "fourth", "full"] = ""
    position_scale: bool = False
    fused: bool = False
    windows: bool = False
    window_layers: int = 0
    needs_windows: bool = False
    softcaps: tuple[str, ...] = ()
    always_capped: bool = False
    square: bool = False
    wide_layers: int = 0
    root_embedding: bool = False
    scales: bool = False
    logit_scale: Literal["", "multiplies", "divides"] = ""

    def query_scale(self, architecture: Architecture) -> float:
        """What it multiplies the product of query and key by."""
        sizes = architecture.attention_sizes
        if self.scales:
            return architecture.layers[0].attention.query_scale
        if len(architecture.layers) == self.wide_layers:
            return float(architecture.hidden_size // sizes.heads) ** -0.5
        return float(sizes.head_dim) ** -0.5

    def has_windows(self, architecture: Architecture) -> bool:
        """Whether layers of a model of this size can have a sliding window."""
        return self.windows and self.window_layers in (0, len(architecture.layers))

    def rotates(self, architecture: Architecture, layer: Layer) -> bool:
        """Whether it gives positions to a layer."""
        if self.unrotated == "fourth":
            return (layer.index + 1) % 4 != 0
        if self.unrotated != "full" or layer.attention.window:
            return True
        return not any(other.attention.window for other in architecture.layers)


LLAMA = LlamaCpp("llama", interleaved=True, biases=ALL, rotary_forms=TABLES, partial=False)
GEMMA = LlamaCpp("gemma", activation="gelu_tanh", root_embedding=True)
MISTRAL3 = replace(LLAMA, name="mistral3", partial=True, position_scale=True)
CANDIDATES: Mapping[str, tuple[LlamaCpp, ...]] = {
    "arcee": (replace(LLAMA, name="arcee", activation="relu2", biases=QKV, partial=True),),
    "cohere2": (
        LlamaCpp(
            "cohere2",
            interleaved=True,
            rotary_forms=TABLES,
            unrotated="full",
            windows=True,
            needs_windows=True,
            square=True,
            logit_scale="multiplies",
        ),
    ),
    "cwm": (LLAMA,),
    "ernie4_5": (LlamaCpp("ernie4_5", interleaved=True, biases=(*QKV, "o")),),
    "exaone4": (
        LlamaCpp(
            "exaone4",
            rotary_forms=TABLES,
            unrotated="full",
            windows=True,
            window_layers=64,
            square=True,
        ),
    ),
    "gemma": (GEMMA,),
    "gemma2": (
        replace(
            GEMMA,
            name="gemma2",
            windows=True,
            softcaps=("scores", "logits"),
            always_capped=True,
            wide_layers=46,
        ),
    ),
    "gemma3_text": (
        replace(GEMMA, name="gemma3", windows=True, softcaps=("logits",), wide_layers=62),
    ),
    "glm4": (LlamaCpp("glm4", interleaved=True, fused=True),),
    "granite": (replace(LLAMA, name="granite", partial=True, scales=True, logit_scale="divides"),),
    "hunyuan_v1_dense": (LlamaCpp("hunyuan-dense", rotary_forms=(*LINEAR, "ntk_alpha")),),
    "internlm3": (LLAMA,),
    "llama": (LLAMA,),
    "ministral": (LLAMA,),
    "ministral3": (LLAMA, MISTRAL3),
    "mistral": (LLAMA,),
    "nemotron": (LlamaCpp("nemotron", activation="relu2", biases=ALL, square=True),),
    "olmo2": (LlamaCpp("olmo2", square=True),),
    "olmo3": (LlamaCpp("olmo2", windows=True, square=True),),
    "phi3": (
        LlamaCpp("phi3", rotary_forms=("default", "longrope"), fused=True, square=True),
        LLAMA,
    ),
    "qwen2": (LlamaCpp("qwen2", square=True), LLAMA),
    "qwen3": (LlamaCpp("qwen3"),),
    "seed_oss": (LlamaCpp("seed_oss"),),
    "smollm3": (LlamaCpp("smollm3", interleaved=True, unrotated="fourth"),),
    "stablelm": (LlamaCpp("stablelm", square=True),),
    "starcoder2": (LlamaCpp("starcoder2", activation="gelu_tanh", biases=ALL, square=True),),
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


def _reasons(architecture: Architecture, target: LlamaCpp) -> Iterator[Reason]:
    for check in (_sizes, _attention, _windows, _rotaries, _linears, _softcaps, _scales):
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
        yield Reason("attention looks ahead, which no format here has", "export another model")
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
    if not windows and target.needs_windows:
        yield Reason(f"llama.cpp's {target.name} needs layers with a sliding window", OTHER)
    if target.has_windows(architecture) and len(windows) > 1:
        yield Reason(f"layers have windows of different sizes: {sorted(windows)}", OTHER)
    if not target.has_windows(architecture) and any(
        longest and window < longest for window in windows
    ):
        yield Reason(
            f"has layers with a sliding window, which llama.cpp would not apply to a {target.name}",
            f"{OTHER}; or set max_position_embeddings in config.json to {min(windows)}, "
            "if no prompt is longer",
        )


def _rotaries(architecture: Architecture, target: LlamaCpp) -> Iterator[Reason]:
    attentions = _attentions(architecture)
    for layer in architecture.layers:
        if target.rotates(architecture, layer) != bool(layer.attention.rotary):
            has = "has" if layer.attention.rotary else "has no"
            yield Reason(
                f"layer {layer.index} {has} positions, other than in llama.cpp's {target.name}",
                OTHER,
            )
            break
    for rotary in dict.fromkeys(attention.rotary for attention in attentions):
        if rotary:
            yield from _rotary(rotary, architecture.attention_sizes.head_dim, target)
    if not target.position_scale and any(attention.position_scale for attention in attentions):
        yield Reason(f"llama.cpp's {target.name} does not scale queries by position", OTHER)


def _rotary(rotary: Rotary, head_dim: int, target: LlamaCpp) -> Iterator[Reason]:
    known, form = f"llama.cpp's {target.name}", rotary.form
    own = [key for key, value in YARN.items() if rotary.settings.get(key, value) != value]
    if form not in target.rotary_forms:
        yield Reason(f"{known} has no positions of type `{form}`", OTHER)
    elif form == "yarn" and own and "llama3" not in target.rotary_forms:
        yield Reason(f"{known} takes no {', '.join(own)} for YaRN", OTHER)
    elif rotary.layer_type == "sliding_attention" and form != "default":
        yield Reason(f"{known} does not apply `{form}` to layers with a window", OTHER)
    if rotary.dim != head_dim and not target.partial:
        yield Reason(f"{known} rotates whole heads, not {rotary.dim} of {head_dim}", OTHER)
    if rotary.interleaved and not target.interleaved:
        yield Reason(f"{known} does not rotate neighbouring channels", OTHER)


def _linears(architecture: Architecture, target: LlamaCpp) -> Iterator[Reason]:
    biased: set[str] = set()
    for layer in architecture.layers:
        for block, parts in ((layer.attention, ALL[:4]), (layer.dense_ffn, ALL[4:])):
            linears = {part: getattr(block, part, None) for part in parts}
            biased |= {part for part, linear in linears.items() if linear and linear.bias}
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
    caps = {
        "scores": any(attention.softcap for attention in _attentions(architecture)),
        "logits": bool(architecture.logit_softcap),
    }
    for name, capped in caps.items():
        if capped and name not in target.softcaps:
            yield Reason(f"llama.cpp's {target.name} sets no limit on {name}", OTHER)
        if not capped and target.always_capped:
            yield Reason(f"llama.cpp's {target.name} always limits {name}", OTHER)


def _scales(architecture: Architecture, target: LlamaCpp) -> Iterator[Reason]:
    root = sqrt(architecture.hidden_size) if target.root_embedding else 1.0
    residual = {layer.residual_scale for layer in architecture.layers}
    wrong = {
        "embeddings": abs(architecture.embedding_scale / root - 1) > 1e-6 and not target.scales,
        "residuals": residual != {1.0} and not target.scales,
        "logits": architecture.logit_scale != 1 and not target.logit_scale,
    }
    for name in (name for name, differs in wrong.items() if differs):
        yield Reason(f"llama.cpp's {target.name} multiplies {name} by another number", OTHER)
