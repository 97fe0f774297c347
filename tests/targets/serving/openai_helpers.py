"""What tests with the real `openai` client share: the client, templates, and a request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from server_helpers import Running  # isort: skip

openai = pytest.importorskip("openai", reason="needs the extra `dev`")

KEY = "k-5b1d0c7e9f3a2468"
TURNS = (
    "{% for m in messages %}<|user|>{{ m['role'] }}: {{ m['content'] }}<|endoftext|>{% endfor %}"
)
PLAIN = TURNS + "{% if add_generation_prompt %}<|assistant|>{% endif %}"
THINKS = TURNS + "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
CALLS = (
    "{% if tools %}<|user|>tools: {% for t in tools %}{{ t | tojson }}{% endfor %}"
    " MARK<|endoftext|>{% endif %}"
    "{% for m in messages %}<|user|>{{ m['role'] }}: {{ m['content'] }}"
    "{% for c in m['tool_calls'] or [] %}"
    " {{ c.function.name }}({{ c.function.arguments | tojson }})"
    "{% endfor %}{% if m['tool_call_id'] %} of {{ m['tool_call_id'] }}{% endif %}<|endoftext|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
HERMES = CALLS.replace("MARK", "<tool_call>")
LLAMA = CALLS.replace("MARK", '{{ \'{"name": function name, "parameters": dictionary}\' }}')
MISTRAL = CALLS.replace("MARK", "[TOOL_CALLS]")
HELLO = [{"role": "user", "content": "1+1"}]

MakeServer = Callable[..., Running]
Says = Callable[[str], None]


def client_of(server: Running, key: str = KEY) -> Any:
    """The real client; it tries nothing twice, so that an error is seen."""
    url = f"http://127.0.0.1:{server.port}/v1"
    return openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=3000)


def chat(client: Any, messages: Any = HELLO, **more: Any) -> Any:
    """A chat completion of at most 8 tokens, unless `more` says otherwise."""
    return client.chat.completions.create(
        model="tiny", messages=messages, **{"max_tokens": 8, **more}
    )
