"""Tokenizers in GGUF files: what is written, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf_models import GGUF, sentencepiece_tokenizer
from test_gguf_families import fields
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

from edgewright.errors import Refused
from edgewright.export.gguf.byte_level import byte_level
from edgewright.export.gguf.writer import export_gguf

SENTENCES = ["the cat sat on the mat and the hat", "a cat in a hat, 12 hats", "def f(x): return x"]
START = "tokenizer.ggml."


@pytest.fixture
def with_pieces(copy_model: Callable[..., Path]) -> Callable[[bool], Path]:
    """A model with a tokenizer like that of Llama 2 (with a space before a text) or Gemma."""

    def make(prefix: bool) -> Path:
        source = copy_model("llama")
        for file in source.glob("tokenizer*"):
            file.unlink()
        sentencepiece_tokenizer(source, SENTENCES, prefix=prefix)
        return source

    return make


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece(prefix: bool, with_pieces: Callable[[bool], Path], tmp_path: Path) -> None:
    export_gguf(with_pieces(prefix), tmp_path / "out", "fp16")
    found = fields(tmp_path / "out")
    kinds = dict(zip(found[f"{START}tokens"], found[f"{START}token_type"], strict=True))
    assert found[f"{START}model"] == "llama"
    assert kinds["<0x41>"] == 6
    assert kinds["<unk>"] == 2 or kinds["<unk>"] == 3
    assert kinds["<|end|>"] == 3
    assert kinds["<think>"] == 4
    assert found[f"{START}add_space_prefix"] is prefix
    assert found[f"{START}add_bos_token"] is prefix
    assert len(found[f"{START}scores"]) == len(kinds)


@pytest.mark.parametrize("name", ["LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer"])
def test_the_tokenizer_classes_of_llama_2_are_written(
    name: str, with_pieces: Callable[[bool], Path], tmp_path: Path
) -> None:
    """transformers puts no space before a text that begins with one, and llama.cpp does."""
    source = with_pieces(True)
    file = source / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": name}))
    notes = export_gguf(source, tmp_path / "out", "fp16")["notes"]
    assert fields(tmp_path / "out")[f"{START}add_space_prefix"] is True
    ours = AutoTokenizer.from_pretrained(source)
    assert ours.tokenize(" cat") == ours.tokenize("cat")
    assert any("a text that begins with one too" in note for note in notes)


def test_merges_that_scores_cannot_say_are_refused(
    with_pieces: Callable[[bool], Path], tmp_path: Path
) -> None:
    source = with_pieces(True)
    file = source / "tokenizer.json"
    described = json.loads(file.read_text())
    merges: list[Any] = described["model"]["merges"]
    merges.pop()  # llama.cpp would still merge the two, because they make a token
    file.write_text(json.dumps(described))
    with pytest.raises(Refused, match="merges"):
        export_gguf(source, tmp_path / "out", "fp16")


def splitting(*steps: Any, ignore_merges: bool = False) -> tuple[Any, dict[str, Any]]:
    """A tokenizer that splits by these steps, and its tokenizer.json."""
    alphabet = {letter: i for i, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}
    tokenizer = Tokenizer(models.BPE(alphabet, [], ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(list(steps))
    return tokenizer, json.loads(tokenizer.to_str())


def test_a_way_of_splitting_has_llama_cpps_name_or_is_refused() -> None:
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    names = [byte_level(*splitting(*steps)) for steps in ((level,), (digits, level))]
    assert [kind.pre for kind in names if kind] == ["gpt-2", "smollm"]
    with pytest.raises(Refused, match="splits texts"):
        byte_level(*splitting(pre_tokenizers.Punctuation(), level))


def test_end_tokens_template_and_the_missing_first_token(
    copy_model: Callable[..., Path], tmp_path: Path
) -> None:
    source = copy_model("qwen2", **GGUF["qwen2"][1])
    (source / "generation_config.json").write_text('{"eos_token_id": [0, 3]}')
    export_gguf(source, tmp_path / "out", "fp16")
    found = fields(tmp_path / "out")
    settings = json.loads((source / "tokenizer_config.json").read_text())
    stated = source / "chat_template.jinja"
    template = stated.read_text() if stated.is_file() else settings["chat_template"]
    assert found["tokenizer.chat_template"] == template
    assert found[f"{START}eos_token_id"] == 0
    assert found[f"{START}eom_token_id"] == 3
    assert found[f"{START}bos_token_id"] == 0
    assert found[f"{START}add_bos_token"] is False


def test_without_a_tokenizer_there_is_a_note(
    copy_model: Callable[..., Path], tmp_path: Path
) -> None:
    source = copy_model("qwen2", **GGUF["qwen2"][1])
    for file in source.glob("tokenizer*"):
        file.unlink()
    checked = export_gguf(source, tmp_path / "out", "fp16")
    assert checked["tokenizer"] == "no_vocab"
    assert "token ids" in checked["notes"][0]
