"""Chat templates as models have them, for a tokenizer that has none of their tokens yet."""

from __future__ import annotations

import copy
from typing import Any

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Like Qwen2.5: a default system prompt, and a newline behind every end token."""
HEADERS = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}<|im_sep|>\n\n"
    "{{ m['content'] | trim }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>\n\n{% endif %}"
)
"""Like Llama 3: writes the begin token itself, and trims what was said."""
STRICT = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
    "{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]{% else %}"
    " {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
"""Like Mistral: no system prompt, no generation prompt, roles in turns."""
OPENS_THOUGHTS = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<|user|>{{ m['content'] }}{% else %}"
    "<|assistant|>{{ m['content'].split('</think>')[-1] }}<|im_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)
"""Like DeepSeek-R1: the generation prompt opens the thoughts, and answers are shown without them.
Its turns end in a token that is not the tokenizer's end token."""
EMPTY_THOUGHTS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Like Qwen3: only the last answer has thoughts, so earlier turns change when others follow."""
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}{% else %}"
    "{{ m['content'] }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Marks itself what the assistant generates."""
EVERY = {
    "chatml": CHATML,
    "headers": HEADERS,
    "strict": STRICT,
    "opens thoughts": OPENS_THOUGHTS,
    "empty thoughts": EMPTY_THOUGHTS,
    "marked": MARKED,
}


def with_template(tokenizer: Any, template: str | None) -> Any:
    """A copy of a tokenizer with this template and the special tokens of all templates."""
    made = copy.deepcopy(tokenizer)
    made.add_special_tokens(
        {"additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<|im_sep|>"]}
    )
    made.chat_template = template
    return made
