"""How llama.cpp makes tokens of a text: what every kind of tokenizer has in common."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ...errors import Refused

__all__ = ["BYTE", "PROBES", "Kind", "unreadable"]

BYTE = re.compile("<0x[0-9A-F]{2}>")
"""A token that stands for one byte of UTF-8."""
PROBES = (
    "Hello, World! It's 12345 o'clock; we'LL SEE'S they'Ve DON'T, x1y22z333 3.14159 1/2.",
    "  two   spaces\tand\ttabs \n\n lines\r\n\r\n  end  ",
    "def f(x_1):\n    return {'a': [x**2, !y]}  # fine\n\n\n",
    "Straße ÉCOLE naïve été ΑΒΓ αβγ Привет МИР CamelCase XMLHttp",
    "中文字符，标点。日本語カタカナ ひらがな 한국어 ภาษาไทย हिन्दी العربية ١٢٣٤",
    "emoji 🎉🎉 👩‍👩‍👧 £€$+=<>^~|` \u00a0nbsp… “quotes” — dash // path/to/file.txt",
    "a\u0301 e\u0301tude ² ³ ½ Ⅳ 𝟘𝟙 ﬁ Å",
)
"""Texts that the ways of splitting known here treat differently."""


@dataclass(frozen=True)
class Kind:
    """One way in which llama.cpp makes tokens of a text.

    Attributes:
        model: `tokenizer.ggml.model`.
        pre: `tokenizer.ggml.pre`.
        merges: the pairs that are merged, first ones first, as `left right`.
        scores: by token; the pair whose token has the highest score is merged first.
        bytes: whether `<0x..>` tokens stand for bytes.
        spaces_escaped: whether tokens hold U+2581 where the text has a space.
        space_prefix: whether a text gets a space before it.
        charsmap: SentencePiece's compiled normalizer.
        notes: what llama.cpp does otherwise than the tokenizer.
    """

    model: str
    pre: str = "default"
    merges: Sequence[str] = ()
    scores: Mapping[int, float] = field(default_factory=dict[int, float])
    bytes: bool = False
    spaces_escaped: bool = False
    space_prefix: bool = False
    charsmap: bytes = b""
    notes: tuple[str, ...] = ()


def unreadable(reason: str) -> Refused:
    """The refusal of a tokenizer of which llama.cpp would make other tokens."""
    return Refused(
        f"llama.cpp cannot read the tokenizer as it is meant: {reason}",
        "--format onnx; or remove the tokenizer files for a GGUF that takes token ids only",
    )
