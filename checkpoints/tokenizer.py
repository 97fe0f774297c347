"""The tokenizer of a checkpoint. Its files are checked, and code beside it is never run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..documents import read_object, read_text
from ..errors import EdgewrightError, Refused, UsageError
from ..models import text_config
from .chat_templates import contain
from .config import end_tokens, read_json
from .settings import load_settings, reason

__all__ = ["VOCABULARIES", "all_end_tokens", "load_tokenizer"]

PACKAGES = {"tokenizer.model": "sentencepiece", "tekken.json": "mistral-common"}
"""Packages that read a tokenizer without tokenizer.json, by the file that it has instead."""
VOCABULARIES = (
    "tokenizer.json",
    *PACKAGES,
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
"""Files that hold a tokenizer's vocabulary."""
LARGEST = 256 << 20
"""Bytes of the largest file of a vocabulary; those of published models have up to 40 MB."""
SETTINGS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.json",
)
"""Files beside a vocabulary that hold a JSON object."""
SETTINGS_BYTES = 16 << 20
TEMPLATE = "chat_template.jinja"
MORE_TEMPLATES = "additional_chat_templates/*.jinja"
TEMPLATE_BYTES = 1 << 20


class _Settings(BaseModel):
    """What a settings file may say; transformers takes other values, and fails later."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())

    model_max_length: Annotated[float, Field(gt=0)] | None = None
    tokenizer_class: str | None = None
    padding_side: Literal["left", "right"] | None = None
    truncation_side: Literal["left", "right"] | None = None
    add_bos_token: bool | None = None
    add_eos_token: bool | None = None
    bos_token: str | dict[str, Any] | None = None
    eos_token: str | dict[str, Any] | None = None
    pad_token: str | dict[str, Any] | None = None
    unk_token: str | dict[str, Any] | None = None
    added_tokens_decoder: dict[str, dict[str, Any]] | None = None
    chat_template: str | list[dict[str, str]] | dict[str, str] | None = None


def load_tokenizer(path: Path) -> Any:
    """The tokenizer of a checkpoint or artifact, padding on the left with a token that exists.

    Where the tokenizer names no end token, it gets the one that the model's files name. Of several
    chat templates it keeps the default one, which may be none.

    Raises:
        EdgewrightError: the tokenizer cannot be loaded.
        UsageError: config.json is broken, or the tokenizer has tokens beyond the vocabulary.
    """
    from transformers import AutoTokenizer  # late: slow to import

    if not any((path / name).is_file() for name in VOCABULARIES):
        raise EdgewrightError(  # transformers would make an empty tokenizer
            f"{path}: no usable tokenizer: there is no tokenizer.json",
            "put the model's tokenizer files beside its weights",
        )
    _check_files(path)
    contain()
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        tokens: dict[str, int] = tokenizer.get_vocab()
    except BaseException as error:  # tokenizers raises bare exceptions, and Rust's panics
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise _unusable(path, error) from error
    _check_vocabulary(path, tokens)
    tokenizer.padding_side = "left"
    ends = end_tokens(path) if tokenizer.eos_token_id is None else []
    if ends and (name := tokenizer.convert_ids_to_tokens(ends[0])) is not None:
        tokenizer.eos_token = name
    if isinstance(tokenizer.chat_template, dict):
        tokenizer.chat_template = tokenizer.chat_template.get("default")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _check_files(path: Path) -> None:
    """Accept the files of a tokenizer, if all have a bearable size and settings are JSON objects.

    Raises:
        UsageError: naming the first file that is wrong.
    """
    for name in VOCABULARIES:
        file = path / name
        if file.is_file() and file.stat().st_size > LARGEST:
            raise UsageError(f"{file}: larger than {LARGEST >> 20} MB", f"restore the {name}")
    for name in SETTINGS:
        file = path / name
        if not file.exists():
            continue
        hint = f"restore the {name} of the model"
        try:
            _Settings.model_validate(read_object(file, hint, SETTINGS_BYTES))
        except ValidationError as error:
            first = error.errors()[0]
            raise UsageError(f"{file}: {first['loc'][0]}: {first['msg']}", hint) from error
    for file in (path / TEMPLATE, *path.glob(MORE_TEMPLATES)):
        if file.exists():
            read_text(file, f"restore the {file.name} of the model", TEMPLATE_BYTES)


def _unusable(path: Path, error: BaseException) -> EdgewrightError:
    """The error for a tokenizer that cannot be loaded; it may be config.json that is broken."""
    if (path / "config.json").is_file():
        load_settings(path)
    if not (path / "tokenizer.json").is_file():
        for name, package in PACKAGES.items():
            if (path / name).is_file():
                return EdgewrightError(
                    f"{path}: no usable tokenizer: there is no tokenizer.json, "
                    f"and {name} needs the package {package}",
                    f"add the tokenizer.json, or: pip install {package}",
                )
    settings = path / "tokenizer_config.json"
    if settings.is_file() and read_json(settings).get("auto_map"):
        return Refused(
            f"{path}: the tokenizer is code that comes with the checkpoint (`auto_map` in "
            "tokenizer_config.json), which is never run",
            "convert it to a tokenizer.json, and remove `auto_map`",
        )
    return EdgewrightError(
        f"{path}: no usable tokenizer: {reason(error)}",
        "put the model's tokenizer files beside its weights",
    )


def _check_vocabulary(path: Path, tokens: Mapping[str, int]) -> None:
    """Stop where the tokenizer has tokens for which the model has no embedding."""
    file = path / "config.json"
    rows = text_config(read_json(file), str(file)).get("vocab_size") if file.is_file() else None
    if not isinstance(rows, int):
        return
    name, last = max(tokens.items(), key=lambda item: item[1], default=("", -1))
    if last >= rows:
        raise UsageError(
            f"{path}: tokenizer and model do not fit: "
            f"token `{name}` has id {last}, and the vocabulary {rows} rows",
            "use the model's own tokenizer files, or resize its embedding to the tokenizer",
        )


def all_end_tokens(named: Iterable[int], tokenizer: Any) -> list[int]:
    """The tokens that end an answer: those that a model's files name, and the tokenizer's own."""
    own = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    return sorted({*named, *own})
