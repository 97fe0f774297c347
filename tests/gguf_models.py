"""What the tests of GGUF files share: a model of each family of llama.cpp, and tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from family_table import WHOLE
from tokenizers import AddedToken, Tokenizer, models, normalizers, processors, trainers
from transformers import PreTrainedTokenizerFast

__all__ = ["GGUF", "TEXTS", "sentencepiece_tokenizer"]

FULL = {"sliding_window": None, "layer_types": ["full_attention"] * 3}
GGUF: dict[str, tuple[str, dict[str, Any]]] = {
    "arcee": ("arcee", {}),
    "cohere2": ("cohere2", {}),
    "ernie4_5": ("ernie4_5", {"use_bias": False}),
    "exaone4": ("exaone4", {**WHOLE, **FULL}),
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", {"query_pre_attn_scalar": 64}),
    "gemma3_text": ("gemma3", {}),
    "glm4": ("glm4", {}),
    "granite": ("granite", {}),
    "hunyuan_v1_dense": ("hunyuan-dense", {}),
    "internlm3": ("llama", {}),
    "llama": ("llama", {}),
    "ministral": ("llama", FULL),
    "ministral3": ("mistral3", {}),
    "mistral": ("llama", {"sliding_window": None}),
    "nemotron": ("nemotron", WHOLE),
    "olmo2": ("olmo2", {**WHOLE, "attention_bias": False}),
    "olmo3": ("olmo2", WHOLE),
    "phi3": ("phi3", WHOLE),
    "qwen2": ("qwen2", WHOLE),
    "qwen3": ("qwen3", {"use_sliding_window": False}),
    "seed_oss": ("seed_oss", {}),
    "smollm3": ("smollm3", {"use_sliding_window": False, "no_rope_layers": [1, 1, 1]}),
    "stablelm": ("stablelm", {}),
    "starcoder2": ("starcoder2", {**WHOLE, "sliding_window": None}),
}
"""Family -> its name in llama.cpp, and what a tiny model must have other than in `FAMILIES`."""
TEXTS = (
    "Hello, world! It's 12345 o'clock and 3.14159.",
    "def f(x_1):\n    return {'a': [x**2]}  # fine\n\n\n",
    "  leading and trailing  ",
    "tabs\tand\r\nlines\n\n\nof all kinds",
    "中文字符，标点。日本語カタカナ 한국어",
    "emoji 🎉🎉 👩‍👩‍👧 and £€",
    "Straße ÉCOLE naïve Привет",
    "<think>\nno</think> text <|end|> more",
    "12+30=42",
    "",
)


def sentencepiece_tokenizer(folder: Path, lines: list[str], *, prefix: bool) -> None:
    """Write a tokenizer as Llama 2 has one (`prefix`) or Gemma.

    Args:
        folder: a model directory.
        lines: text to learn from.
        prefix: whether a text gets a space before it.
    """
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    space = normalizers.Replace(" ", "\u2581")
    tokenizer.normalizer = (
        normalizers.Sequence([normalizers.Prepend("\u2581"), space]) if prefix else space
    )
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=names, show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    merges = [
        (token[:cut], token[cut:])
        for token in sorted(vocabulary, key=vocabulary.__getitem__)
        if token not in names
        for cut in range(1, len(token))
        if token[:cut] in vocabulary and token[cut:] in vocabulary
    ]  # as transformers makes them of a SentencePiece model
    whole = Tokenizer(
        models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    whole.normalizer = tokenizer.normalizer
    whole.add_special_tokens(["<unk>", "<s>", "</s>", AddedToken("<|end|>", special=True)])
    whole.add_tokens([AddedToken("<think>", normalized=False)])
    if prefix:
        whole.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
        )
    PreTrainedTokenizerFast(
        tokenizer_object=whole, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
