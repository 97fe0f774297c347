"""Errors on the terminal: whatever is raised is one message, fit to be shown, with no secret."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from edgewright import cli as command_line
from edgewright.console import LONGEST, printable

Cli = Callable[..., tuple[int, str, str]]


class PanicException(BaseException):
    """Like what libraries in Rust raise."""


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        KeyError("x"),
        ZeroDivisionError(),
        RecursionError(),
        MemoryError(),
        UnicodeEncodeError("utf-8", "\ud800", 0, 1, "x"),
        AssertionError(),
        PanicException("x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_any_error_is_one_message(
    error: BaseException, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: Any) -> None:
        raise error

    error.add_note("while reading m/config.json")
    monkeypatch.setattr(command_line, "app", fail)
    code, out, err = cli("plan", "m")
    assert code == 1
    assert out == ""
    assert f"error: {type(error).__name__}: " in err
    assert "while reading m/config.json" in err
    assert "--debug" in err
    assert "Traceback" not in err
    with pytest.raises(type(error)):
        cli("plan", "m", "--debug")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb\x07", "a�[31mb�"),
        ("\u202ereversed", "�reversed"),
        ("\ud800", "�"),
        ("tab\tand\nline, é 😀", "tab\tand\nline, é 😀"),
        ("key top-secret-value here", "key *** here"),
        ("https://user:word@host/x", "https://***@host/x"),
        ("hf_" + "a1B2" * 6 + " is wrong", "*** is wrong"),
    ],
)
def test_what_is_shown(text: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "top-secret-value")
    monkeypatch.setenv("SOME_API_KEY", "short")
    assert printable(text) == shown


def test_an_interruption_outside_of_the_work_is_one_sentence(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "app", fail)
    code, out, err = cli("plan", "m")
    assert (code, out, err) == (130, "", "interrupted; run the same command again\n")


def test_a_long_message_is_cut() -> None:
    text = printable("a" * 10**7)
    assert len(text) < LONGEST + 10
    assert " [...] " in text


def test_the_hub_is_told_no_secret(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "Secret99" * 4)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("401 for https://me:pass@hub/x with hf_" + "Secret99" * 4)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    code, _, err = cli("plan", "some/model")
    assert code == 2
    assert "Secret99" not in err
    assert "pass" not in err
