"""Find the shape of a model by its name or, for unknown names, estimate it from its parameters.

Tables of measurements name models and say little else about them. A known name gives the sizes in
the model's config.json. Any other model is assumed to be a decoder of usual proportions, with an
FFN width that gives the right number of parameters.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["KnownModel", "decoder", "parameters_of", "shape_of", "usual_shape"]

NAMES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "vocab_size",
)
SAME_SIZE = 0.3
"""The largest difference between the logarithms of a stated parameter count and of the named
model's (a table may say 7 for 7.6 or 6.7 billion)."""


@dataclass(frozen=True)
class KnownModel:
    """A published model.

    Attributes:
        params_b: billions of parameters.
        sizes: its sizes, in the order of `NAMES`. An FFN of 0 means: computed from `params_b`.
        tied: whether embedding and head are tied.
    """

    params_b: float
    sizes: tuple[int, ...]
    tied: bool = True

    @property
    def config(self) -> dict[str, Any]:
        """The sizes in the form of a config.json, as a llama: the same arithmetic, no extras."""
        hidden, layers, heads, kv_heads, head_dim, ffn, vocab = self.sizes
        if ffn:
            return _config(self.sizes, self.tied)
        return decoder(self.params_b, hidden, layers, heads, kv_heads, head_dim, vocab, self.tied)


def _config(sizes: tuple[int, ...], tied: bool) -> dict[str, Any]:
    return {
        "model_type": "llama",
        **dict(zip(NAMES, sizes, strict=True)),
        "tie_word_embeddings": tied,
    }


def decoder(
    params_b: float,
    hidden: int,
    layers: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    vocab: int,
    tied: bool,
) -> dict[str, Any]:
    """The config.json of a decoder whose FFN width gives `params_b` billion parameters."""
    attention = 2 * hidden * head_dim * (heads + kv_heads)
    rest = params_b * 1e9 - hidden * vocab * (1 if tied else 2) - layers * attention
    ffn = max(int(rest / (3 * layers * hidden)), hidden // 2)
    return _config((hidden, layers, heads, kv_heads, head_dim, ffn, vocab), tied)


def _many(tied_below: float, *models: tuple[float, tuple[int, ...]]) -> list[KnownModel]:
    """Models from (parameters, sizes). Those below this number of parameters are tied."""
    return [KnownModel(params, sizes, params < tied_below) for params, sizes in models]


LLAMA_2 = _many(
    0,
    (6.74, (4096, 32, 32, 32, 128, 11008, 32000)),
    (13.0, (5120, 40, 40, 40, 128, 13824, 32000)),
    (69.0, (8192, 80, 64, 8, 128, 28672, 32000)),
)
LLAMA_3 = _many(
    5,
    (1.24, (2048, 16, 32, 8, 64, 8192, 128256)),
    (3.21, (3072, 28, 24, 8, 128, 8192, 128256)),
    (8.03, (4096, 32, 32, 8, 128, 14336, 128256)),
    (70.6, (8192, 80, 64, 8, 128, 28672, 128256)),
)
QWEN_2 = _many(
    5,
    (0.49, (896, 24, 14, 2, 64, 4864, 151936)),
    (1.54, (1536, 28, 12, 2, 128, 8960, 151936)),
    (3.09, (2048, 36, 16, 2, 128, 11008, 151936)),
    (7.62, (3584, 28, 28, 4, 128, 18944, 152064)),
    (14.8, (5120, 48, 40, 8, 128, 13824, 152064)),
    (32.8, (5120, 64, 40, 8, 128, 27648, 152064)),
    (72.7, (8192, 80, 64, 8, 128, 29568, 152064)),
)
QWEN_3 = _many(
    5,
    (0.6, (1024, 28, 16, 8, 128, 3072, 151936)),
    (1.72, (2048, 28, 16, 8, 128, 6144, 151936)),
    (4.02, (2560, 36, 32, 8, 128, 9728, 151936)),
    (8.19, (4096, 36, 32, 8, 128, 12288, 151936)),
    (14.8, (5120, 40, 40, 8, 128, 17408, 151936)),
    (32.8, (5120, 64, 64, 8, 128, 25600, 151936)),
)
FAMILIES: list[tuple[str, list[KnownModel]]] = [  # the first one that has a model of the size
    (r"distill-llama", LLAMA_3),
    # Three of four layers of Qwen3.5 use linear attention, which has no cache. So a quarter of its
    # 4 key/value heads is counted.
    (
        r"qwen-?3[.]5",
        _many(
            5,
            (0.8, (1024, 24, 8, 1, 256, 0, 248320)),
            (2.0, (2048, 24, 8, 1, 256, 0, 248320)),
            (4.2, (2560, 32, 16, 1, 256, 0, 248320)),
            (9.0, (4096, 32, 16, 1, 256, 0, 248320)),
            (27.0, (5120, 64, 24, 1, 256, 0, 248320)),
        ),
    ),
    (r"qwen-?3|bonsai", QWEN_3),
    (r"qwen-?2|deepseek-?r1|qwq|vila-?2|nvila", QWEN_2),
    (
        r"qwen(-?1[.]5)?-\d",
        _many(
            1,
            (0.46, (1024, 24, 16, 16, 64, 2816, 151936)),
            (1.84, (2048, 24, 16, 16, 128, 5504, 151936)),
            (3.95, (2560, 40, 20, 20, 128, 6912, 151936)),
            (7.72, (4096, 32, 32, 32, 128, 11008, 151936)),
        ),
    ),
    (r"llama-?3|deepseek-?r1", LLAMA_3),
    (r"llama-?2|vicuna|llava|vila|codellama", LLAMA_2),
    (
        r"open-?llama|orca-?mini",
        _many(0, (3.43, (3200, 26, 32, 32, 100, 8640, 32000)), (6.74, LLAMA_2[0].sizes)),
    ),
    (r"tiny-?llama", _many(0, (1.1, (2048, 22, 32, 4, 64, 5632, 32000)))),
    (
        r"smollm",
        _many(
            9,
            (0.135, (576, 30, 9, 3, 64, 1536, 49152)),
            (0.362, (960, 32, 15, 5, 64, 2560, 49152)),
            (1.71, (2048, 24, 32, 32, 64, 8192, 49152)),
            (3.08, (2048, 36, 16, 4, 128, 11008, 128256)),
        ),
    ),
    (
        r"gemma-?3",
        _many(
            99,
            (0.268, (640, 18, 4, 1, 256, 2048, 262144)),
            (1.0, (1152, 26, 4, 1, 256, 6912, 262144)),
            (3.88, (2560, 34, 8, 4, 256, 10240, 262144)),
            (11.8, (3840, 48, 16, 8, 256, 15360, 262144)),
            (27.0, (5376, 62, 32, 16, 128, 21504, 262144)),
        ),
    ),
    (
        r"gemma(-1[.]1)?(-\d+b|$)",
        _many(
            99,
            (2.51, (2048, 18, 8, 1, 256, 16384, 256000)),
            (8.54, (3072, 28, 16, 16, 256, 24576, 256000)),
        ),
    ),
    (
        r"gemma",
        _many(
            99,
            (2.61, (2304, 26, 8, 4, 256, 9216, 256000)),
            (9.24, (3584, 42, 16, 8, 256, 14336, 256000)),
            (27.2, (4608, 46, 32, 16, 128, 36864, 256000)),
        ),
    ),
    (r"phi-?4-?mini", _many(9, (3.84, (3072, 32, 24, 8, 128, 8192, 200064)))),
    (r"phi-?4", _many(0, (14.7, (5120, 40, 40, 10, 128, 17920, 100352)))),
    (
        r"phi-?3",
        _many(
            0,
            (3.82, (3072, 32, 32, 32, 96, 8192, 32064)),
            (14.0, (5120, 40, 40, 10, 128, 17920, 32064)),
        ),
    ),
    (
        r"phi",
        _many(
            0, (1.42, (2048, 24, 32, 32, 64, 0, 51200)), (2.78, (2560, 32, 32, 32, 80, 0, 51200))
        ),
    ),
    (
        r"stable-?lm",
        _many(
            0,
            (1.64, (2048, 24, 32, 32, 64, 5632, 100352)),
            (2.8, (2560, 32, 32, 32, 80, 6912, 50304)),
        ),
    ),
    (r"mistral|zephyr|ministral", _many(0, (7.25, (4096, 32, 32, 8, 128, 14336, 32768)))),
    # A third of LFM2's layers use attention; the others are short convolutions without a cache.
    (
        r"lfm-?2",
        _many(9, (0.354, (1024, 16, 16, 2, 64, 0, 65536)), (1.17, (2048, 16, 32, 2, 64, 0, 65536))),
    ),
    (r"nemotron-?3-?nano", _many(0, (3.97, (3136, 42, 40, 1, 128, 0, 131072)))),
    (r"minicpm-?4", _many(0, (8.2, (4096, 32, 32, 2, 128, 16384, 73448)))),
]

LADDER = QWEN_2[:1] + LLAMA_3[:1] + [QWEN_3[2], LLAMA_3[2], QWEN_2[4], QWEN_2[5], LLAMA_3[3]]
"""Usual proportions by size, for unknown models."""

ACTIVE = (
    ("gpt-?oss-?20b", 3.6),
    ("gpt-?oss-?120b", 5.1),
    ("deepseek-?v2-?lite", 2.4),
    ("phi-?3.5-?moe", 6.6),
    ("olmoe", 1.3),
)
"""Billions of active parameters of mixtures of experts whose names do not state them."""


def parameters_of(name: str, stated: str = "") -> tuple[float | None, float | None]:
    """Billions of all parameters and of active ones (those that a token uses).

    They come from the table's column or from the model's name: `30B-A3B` is a mixture of experts
    with 3 billion active ones, `8x7B` uses two of eight experts. None if nothing is stated.
    """
    low = name.lower()
    active = re.search(r"(?<![a-z0-9])[ae](\d+(?:[.]\d+)?)b", low)
    experts = re.search(r"(\d+)x(\d+(?:[.]\d+)?)b", low)
    size = re.search(r"(?<![a-z0-9.])(\d+(?:[.]\d+)?)\s*([bm])(?![a-z0-9])", low)
    given = re.match(r"\s*~?(\d+(?:[.]\d+)?)\s*([bm]?)", stated.lower())
    said = given or size
    total = float(said[1]) / (1000 if said[2] == "m" else 1) if said else None
    if total is None and experts:
        total = float(experts[1]) * float(experts[2]) * 0.83  # attention is shared
    used = float(active[1]) if active else 2 * float(experts[2]) * 0.9 if experts else None
    used = used or next((billions for pattern, billions in ACTIVE if re.search(pattern, low)), None)
    total = total or used
    return total, used if used and total and used < total else None


def shape_of(name: str, stated: str = "") -> tuple[dict[str, Any], float, str] | None:
    """The shape of a model by its name.

    A mixture of experts is treated as a dense model with the geometric mean of all and of active
    parameters: routing, small products and a large head cost about as much time as that many more
    weights.

    Args:
        name: the model's name.
        stated: its parameters as the table states them.

    Returns:
        A config.json, billions of parameters, and how well the shape is known: `known` for exact
        sizes, `sketched` for known width, depth and vocabulary of an architecture that is not a
        plain decoder, `inferred` if estimated from the number of parameters. None without a size.
    """
    total, active = parameters_of(name, stated)
    if total is None:
        return None
    size = math.sqrt(total * active) if active else total
    if not active:
        low = name.lower().replace(" ", "-").replace("_", "-")
        for family in (models for pattern, models in FAMILIES if re.search(pattern, low)):
            nearest = min(family, key=lambda m: abs(math.log(m.params_b / size)))
            if abs(math.log(nearest.params_b / size)) < SAME_SIZE:
                return nearest.config, nearest.params_b, "known" if nearest.sizes[5] else "sketched"
    return usual_shape(size), size, "inferred"


def usual_shape(params_b: float) -> dict[str, Any]:
    """A decoder of usual proportions. Its sizes are interpolated between models in `LADDER`."""
    sizes = np.log([model.params_b for model in LADDER])

    def between(column: int) -> float:
        values = np.log([model.sizes[column] for model in LADDER])
        return float(np.exp(np.interp(math.log(params_b), sizes, values)))

    # Below the smallest model of the ladder, the width continues to shrink.
    narrow = min(1.0, math.sqrt(params_b / LADDER[0].params_b))
    hidden = max(round(between(0) * narrow / 64), 1) * 64
    kv_heads = 8 if params_b > 1 else 2
    heads = max(round(hidden / 128 / kv_heads), 1) * kv_heads
    vocab = 128256 if params_b > 0.3 else 49152
    return decoder(
        params_b,
        hidden,
        round(between(1)),
        heads,
        kv_heads,
        128 if params_b > 1 else 64,
        vocab,
        params_b < 5,
    )
