"""Chat templates of others: they end, they take little memory, and they see nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgewright.checkpoints import chat_templates, template_worker
from edgewright.checkpoints.tokenizer import load_tokenizer
from edgewright.data.packing import Example, encode, render_prompt
from edgewright.data.rows import Conversation, Turn
from edgewright.errors import UsageError

MakeModel = Callable[..., Path]
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
POWER = "{{ (7 ** 99999999) % 3 }}"
FAILING = {
    "a long range": ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
    "much memory": ("{{ 'a' * 10**10 }}", "1024 MB of memory"),
    "padding": ("{{ 'x'.ljust(10**10) }}", "1024 MB of memory"),
    "a long text": ("{{ 'a' * 20000000 }}", "longer than 16,777,216 characters"),
    "recursion": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
    "classes": ("{{ ''.__class__.__mro__ }}", "unsafe"),
    "methods": ("{{ messages.append(1) }}", "unsafe"),
    "a mistake": ("{% if", "unexpected"),
    "its own refusal": ("{{ raise_exception('no') }}", "no"),
}


@pytest.fixture
def tokenizer(make_model: MakeModel) -> Any:
    return load_tokenizer(make_model("llama"))


@pytest.mark.parametrize("name", FAILING)
def test_a_failing_template_is_one_message(name: str, tokenizer: Any) -> None:
    tokenizer.chat_template, words = FAILING[name]
    with pytest.raises(UsageError, match=words) as caught:
        render_prompt(tokenizer, "why?")
    assert "the chat template fails" in str(caught.value)


@pytest.mark.parametrize("template", [LOOP, POWER], ids=["loop", "power"])
def test_a_template_that_does_not_end_is_stopped(
    template: str, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped once, and not for every row of data; others are rendered as before."""
    worker = Path(template_worker.__file__).read_text().replace("SECONDS = 10.0", "SECONDS = 1.0")
    (tmp_path / "template_worker.py").write_text(worker)
    monkeypatch.setattr(chat_templates, "__file__", str(tmp_path / "chat_templates.py"))
    monkeypatch.setattr(chat_templates, "SECONDS", 1.0)
    renderer = chat_templates._Renderer()
    starts: list[None] = []
    start = renderer._start
    monkeypatch.setattr(renderer, "_start", lambda: (starts.append(None), start()))
    monkeypatch.setattr(
        "transformers.tokenization_utils_base.render_jinja_template", renderer.render
    )
    tokenizer.chat_template = template
    talk = Conversation((Turn("user", "a"), Turn("assistant", "b")))
    for row in (talk, Example("b", "a"), talk):
        with pytest.raises(UsageError, match="stopped after 1 s of processor time"):
            encode(tokenizer, row)
    assert len(starts) == 1
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    assert render_prompt(tokenizer, "why?") == "why?"
    renderer.close()


def test_it_renders_as_transformers_does(tokenizer: Any) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    template = (
        "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content | tojson }}{% endfor %}"
    )
    said = [{"role": "user", "content": "é \U0001f600 <b> \n\u2028"}]
    tokenizer.chat_template = template
    expected, _ = render_jinja_template(
        [said], chat_template=template, **tokenizer.special_tokens_map
    )
    assert tokenizer.apply_chat_template(said, tokenize=False) == expected[0]


def test_the_worker_is_started_again(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    assert render_prompt(tokenizer, "one") == "one"
    process = chat_templates._renderer._process
    assert process is not None
    process.kill()
    process.wait()
    assert render_prompt(tokenizer, "two") == "two"
