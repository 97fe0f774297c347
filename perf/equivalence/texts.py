"""Text that the jobs read, and what the tokenizer is made of."""

from __future__ import annotations

SENTENCES = (
    "The kettle was put on at seven, and the cat asked for its breakfast again.",
    "Seven boats left the harbour before noon; five of them came back with the tide.",
    "12+30=42 and 42-7=35, so the answer is 35.",
    "Nobody had told the gardener that the roses were to stay where they were.",
    "Whoever finds a key under the third stone may open the small green door.",
    "Rain fell on the orchard all night, yet by morning every path was dry.",
)
"""Text for the vocabulary, the calibration and the perplexity."""
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The pre-tokenizer pattern of Qwen2; llama.cpp has it too."""
SPECIAL = ("<|endoftext|>", "<|user|>", "<|assistant|>", "<think>", "</think>")
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<|user|>{{ m['content'] }}{% else %}"
    "<|assistant|>{{ m['content'] }}<|endoftext|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)
