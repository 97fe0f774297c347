"""Byte-level BPE for llama.cpp, which has a name for each known way of splitting a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .tokenizer_kind import PROBES, Kind, unreadable

__all__ = ["byte_level"]

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SLASH = REST.replace(r"[\r\n]*", r"[\r\n/]*", 1)
WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*"
MARKED = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = rf"{SHORT}|{WORD}|\p{{N}}{{1,3}}|{REST}"
PRE_TOKENIZERS: tuple[tuple[str, bool, tuple[str, ...]], ...] = (
    ("gpt-2", False, (GPT2,)),
    ("smollm", False, (r"\p{N}", GPT2)),
    ("qwen2", False, (rf"{SHORT}|{WORD}|\p{{N}}|{REST}",)),
    ("llama-bpe", True, (LLAMA3,)),
    ("dbrx", False, (LLAMA3,)),
    ("tekken", True, (rf"{CASED[0]}|{CASED[1]}|\p{{N}}|{SLASH}",)),
    ("gpt-4o", False, (rf"{CASED[0]}{SHORT}?|{CASED[1]}{SHORT}?|\p{{N}}{{1,3}}|{SLASH}",)),
    (
        "seed-coder",
        False,
        (
            rf"{SHORT}|{WORD}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+"
            r"|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
    ),
    (
        "qwen35",
        False,
        (
            rf"{SHORT}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
            r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
    ),
    ("deepseek-v3", False, (r"\p{N}{1,3}", "[一-龥\u3040-\u309f\u30a0-\u30ff]+", MARKED)),
)
"""llama.cpp's name, whether it takes a word that is a token without merging, and the expressions.

Each expression splits what the one before it left. Tokenizers that split alike share one name.
"""


def byte_level(backend: Any, described: Mapping[str, Any]) -> Kind | None:
    """How llama.cpp reads a byte-level BPE tokenizer; None: it is of another kind.

    Args:
        backend: the tokenizer of the package tokenizers.
        described: its tokenizer.json.

    Raises:
        Refused: llama.cpp would make other tokens of a text.
    """
    model = described["model"]
    steps = _flat(described["pre_tokenizer"], "pretokenizers")
    if model.get("type") != "BPE" or not any(step["type"] == "ByteLevel" for step in steps):
        return None
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise unreadable("pieces of a word are marked with a prefix or suffix")
    normalizers = [step["type"] for step in _flat(described["normalizer"], "normalizers")]
    if others := [name for name in normalizers if name != "NFC"]:
        raise unreadable(f"it changes the text before it splits it ({', '.join(others)})")
    notes = ("llama.cpp does not compose accents (NFC) before it splits a text",)
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    pre = _pre_tokenizer(backend, bool(model.get("ignore_merges")))
    return Kind("gpt2", pre, merges, notes=notes if normalizers else ())


def _flat(step: Mapping[str, Any] | None, parts: str) -> list[Mapping[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, those of sequences one by one."""
    if step is None:
        return []
    if step["type"] != "Sequence":
        return [step]
    return [flat for part in step[parts] for flat in _flat(part, parts)]


def _pre_tokenizer(backend: Any, whole_words: bool) -> str:
    """llama.cpp's name for how a tokenizer splits texts, found by splitting some.

    Args:
        backend: the tokenizer.
        whole_words: whether a word that is a token is taken without merging.
    """
    wanted = [backend.pre_tokenizer.pre_tokenize_str(text) for text in PROBES]
    alike = [
        (name, whole)
        for name, whole, expressions in PRE_TOKENIZERS
        if _splits(expressions) == wanted
    ]
    if not alike:
        raise unreadable("it splits texts in a way that llama.cpp has no name for")
    for name, whole in alike:
        if whole == whole_words:
            return name
    if not _merging_gives_words(backend):
        raise unreadable("it has tokens that merging does not lead to (`ignore_merges`)")
    return alike[0][0]


def _splits(expressions: tuple[str, ...]) -> list[Any]:
    """The words of every probe."""
    from tokenizers import Regex, pre_tokenizers  # late: only this export needs it

    parts = [pre_tokenizers.Split(Regex(expression), "isolated") for expression in expressions]
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    splitter = pre_tokenizers.Sequence([*parts, level])
    return [splitter.pre_tokenize_str(text) for text in PROBES]


def _merging_gives_words(backend: Any) -> bool:
    """Whether merging makes every token of its own text, so that taking it whole is the same."""
    from tokenizers import Tokenizer, pre_tokenizers

    bare = Tokenizer.from_str(backend.to_str())
    bare.model.ignore_merges = False
    bare.pre_tokenizer = pre_tokenizers.Split("\n\n\n", "isolated")  # none of them is split
    bare.no_padding()
    vocabulary = backend.get_vocab(with_added_tokens=False)
    found = bare.encode_batch(list(vocabulary), add_special_tokens=False)
    return all(one.ids == [index] for one, index in zip(found, vocabulary.values(), strict=True))
