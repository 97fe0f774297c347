"""Tokenizers: one place loads them, and a broken one is one message before any work starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from model_files import configure

from edgewright.checkpoints.config import end_tokens
from edgewright.checkpoints.tokenizer import all_end_tokens, load_tokenizer
from edgewright.checkpoints.writer import TOKENIZER_FILES, copy_tokenizer
from edgewright.data.packing import Example, encode, render_prompt
from edgewright.errors import EdgewrightError, UsageError

MakeModel = Callable[..., Path]
Cli = Callable[..., tuple[int, str, str]]


def edit(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))


def add_token(folder: Path, name: str, number: int) -> None:
    token = {"id": number, "content": name, "special": False, "normalized": False}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    edit(folder / "tokenizer.json", lambda data: data["added_tokens"].append(token | flags))


def newer_release(folder: Path) -> None:
    edit(folder / "tokenizer.json", lambda data: data["model"].update(type="BPE-2"))


def sentencepiece_alone(folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")


def word_for_a_number(folder: Path) -> None:
    configure(folder, attention_dropout="much")


BROKEN: dict[str, tuple[Callable[[Path], Any], int, str]] = {
    "newer release": (newer_release, 1, "no usable tokenizer"),
    "no JSON": (lambda f: (f / "tokenizer.json").write_text("{"), 1, "no usable tokenizer"),
    "absent": (lambda f: (f / "tokenizer.json").unlink(), 1, "no usable tokenizer"),
    "sentencepiece": (sentencepiece_alone, 1, "pip install sentencepiece"),
    "config": (word_for_a_number, 2, r"config.json: transformers cannot read it"),
    "surplus token": (
        lambda f: add_token(f, "<|tool|>", 512),
        2,
        "token `<|tool|>` has id 512, and the vocabulary 512 rows",
    ),
    "end token in words": (
        lambda f: (f / "generation_config.json").write_text('{"eos_token_id": "stop"}'),
        2,
        "eos_token_id is 'stop'",
    ),
    "generation settings": (
        lambda f: (f / "generation_config.json").write_text("{"),
        2,
        "generation_config.json: not valid JSON",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_every_verb_says_what_is_wrong(
    kind: str, copy_model: MakeModel, cli: Cli, text_file: Path, tmp_path: Path
) -> None:
    spoil, expected, message = BROKEN[kind]
    folder = copy_model("llama")
    out = tmp_path / "out"
    spoil(folder)
    data = ("--calibration", f"text:{text_file}", "--seq-len", 32)
    few = (*data, "--samples", 2, "--out", out)
    score = ("--perplexity", f"text:{text_file}", "--seq-len", 32, "--windows", 2)
    verbs = [
        ("quantize", folder, "--group-size", 32, *few),
        ("prune", folder, "--ffn", 0.5, *few),
        ("export", folder, *data, "--out", out),
        ("bench", folder, *score),
    ]
    if kind.startswith(("end", "generation")):
        verbs = verbs[-1:]  # the others ask for no end token where the tokenizer has one
    for verb in verbs:
        code, _, err = cli(*verb)
        assert code == expected, (verb, err)
        assert message in err, (verb, err)
        assert "Traceback" not in err
        assert not out.exists()


def without_end(folder: Path) -> Path:
    """A tokenizer that names no end token, of a class that has none by itself."""
    plain = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(plain))
    return folder


def test_the_end_token_of_the_models_files_is_used(copy_model: MakeModel) -> None:
    folder = without_end(copy_model("llama"))
    (folder / "generation_config.json").write_text('{"eos_token_id": [3, 0]}')
    tokenizer = load_tokenizer(folder)
    assert end_tokens(folder) == [3, 0]
    assert tokenizer.eos_token_id == 3 == tokenizer.pad_token_id
    assert encode(tokenizer, Example("12", "1+11=")).ids[-1] == 3
    assert all_end_tokens(end_tokens(folder), tokenizer) == [0, 3]
    (folder / "generation_config.json").unlink()
    assert load_tokenizer(folder).eos_token_id == 0  # config.json's


def test_the_tokenizers_own_end_token_stays(copy_model: MakeModel) -> None:
    folder = copy_model("llama")
    own = load_tokenizer(folder).eos_token_id
    (folder / "generation_config.json").write_text('{"eos_token_id": 7}')
    tokenizer = load_tokenizer(folder)
    assert tokenizer.eos_token_id == own
    assert all_end_tokens(end_tokens(folder), tokenizer) == sorted({7, own})


def test_no_end_token_anywhere_is_named(copy_model: MakeModel) -> None:
    folder = configure(without_end(copy_model("llama")), drop=("eos_token_id", "pad_token_id"))
    (folder / "generation_config.json").unlink()
    tokenizer = load_tokenizer(folder)
    assert encode(tokenizer, Example("only text")).ids
    with pytest.raises(UsageError, match="no end token") as caught:
        encode(tokenizer, Example("12", "1+11="))
    assert "eos_token_id" in caught.value.hint


def test_a_tokenizer_json_alone_is_enough(copy_model: MakeModel, cli: Cli, tmp_path: Path) -> None:
    folder = copy_model("llama")
    for name in ("tokenizer_config.json", "generation_config.json", "chat_template.jinja"):
        (folder / name).unlink(missing_ok=True)
    few = ("--samples", 2, "--seq-len", 32, "--out", tmp_path / "out")
    code, _, err = cli("prune", folder, "--heads", 0.5, "--criterion", "activation", *few)
    assert code == 0, err


def test_named_templates_without_a_default_are_none(copy_model: MakeModel) -> None:
    folder = copy_model("llama")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    edit(folder / "tokenizer_config.json", lambda data: data.pop("chat_template", None))
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    assert "Question: 1+1" in render_prompt(load_tokenizer(folder), "1+1")
    (folder / "chat_template.jinja").write_text("the default")
    assert render_prompt(load_tokenizer(folder), "1+1") == "the default"


def test_all_files_of_a_tokenizer_are_copied(tmp_path: Path) -> None:
    source = tmp_path / "source"
    out = tmp_path / "out"
    out.mkdir()
    names = [pattern.replace("*", "v3") for pattern in TOKENIZER_FILES]
    for number, name in enumerate(names):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(bytes([number, 0, 255]))
    (source / "model.safetensors").touch()
    copy_tokenizer(source, out)
    found = {p.relative_to(out).as_posix(): p for p in out.rglob("*") if p.is_file()}
    assert found.keys() == set(names)
    assert all(p.read_bytes() == (source / name).read_bytes() for name, p in found.items())


def test_outputs_have_all_tokenizer_files(
    copy_model: MakeModel, cli: Cli, text_file: Path, tmp_path: Path
) -> None:
    folder = copy_model("llama", num_hidden_layers=2)
    extra = {
        "additional_chat_templates/tool_use.jinja": b"{{ tools }}\r\n",
        "tekken.json": b"{ }",
        "tokenizer.model": b"\x00\xff",
    }
    (folder / "additional_chat_templates").mkdir()
    for name, content in extra.items():
        (folder / name).write_bytes(content)
    data = ("--calibration", f"text:{text_file}", "--seq-len", 32)
    few = (*data, "--samples", 2)
    learn = (
        "--teacher",
        folder,
        "--data",
        f"text:{text_file}",
        "--seq-len",
        32,
        "--logit-steps",
        1,
    )
    verbs = {
        "prune": ("prune", folder, "--ffn", 0.5, "--criterion", "magnitude", *few),
        "quantize": ("quantize", folder, "--method", "rtn", "--group-size", 32, *few),
        "distill": ("distill", folder, *learn, "--batch-size", 1),
        **{
            format: ("export", folder, "--format", format, "--precision", "fp16", *data)
            for format in ("onnx", "ort", "triton", "gguf")
        },
    }
    for name, verb in verbs.items():
        code, _, err = cli(*verb, "--out", tmp_path / name)
        assert code == 0, (name, err)
        for file, content in extra.items():
            assert (tmp_path / name / file).read_bytes() == content, (name, file)


def test_load_tokenizer_raises_only_errors_of_ours(copy_model: MakeModel) -> None:
    folder = copy_model("llama")
    newer_release(folder)
    with pytest.raises(EdgewrightError, match="no usable tokenizer") as caught:
        load_tokenizer(folder)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("tokenizer_config.json", {"model_max_length": "x"}, "model_max_length"),
        ("tokenizer_config.json", {"model_max_length": -1}, "model_max_length"),
        ("tokenizer_config.json", {"padding_side": "up"}, "padding_side"),
        ("tokenizer_config.json", {"eos_token": 5}, "eos_token"),
        ("tokenizer_config.json", {"chat_template": 5}, "chat_template"),
        ("tokenizer_config.json", {"added_tokens_decoder": []}, "added_tokens_decoder"),
        ("special_tokens_map.json", {"pad_token": ["x"]}, "pad_token"),
        ("generation_config.json", [], "not a JSON object"),
        ("added_tokens.json", "{", "not valid JSON"),
        ("chat_template.jinja", "a" * (1 << 20 | 1), "larger than 1,024 kB"),
        ("additional_chat_templates/a.jinja", "a" * (1 << 20 | 1), "larger than 1,024 kB"),
    ],
)
def test_a_wrong_setting_is_named(
    name: str, values: Any, words: str, copy_model: MakeModel
) -> None:
    model = copy_model("llama")
    file = model / name
    file.parent.mkdir(exist_ok=True)
    if isinstance(values, dict) and file.exists():
        values = json.loads(file.read_text()) | values
    file.write_text(values if isinstance(values, str) else json.dumps(values))
    with pytest.raises(UsageError, match=words) as caught:
        load_tokenizer(model)
    assert str(caught.value).startswith(str(file))
