"""The runner that the tests use is as strict as the real ones: expressions, commands, outputs."""

from __future__ import annotations

from typing import Any

import pytest
from ci_runner import assigned, obeyed
from expressions import evaluate, filled, runs

CONTEXTS = {"inputs": {"install": "", "name": "a'b"}, "steps": {"one": {"outputs": {"v": "3"}}}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("inputs.install || 'x'", "x"),
        ("inputs.name != 'none' && steps.one.outputs.v", "3"),
        ("!(inputs.install == '')", False),
        ("inputs.name == 'a''b'", True),
        ("'a' == 'b' || 'c'", "c"),
    ],
)
def test_expressions(text: str, value: Any) -> None:
    assert evaluate(text, CONTEXTS) == value


@pytest.mark.parametrize("text", ["inputs.missing", "github.token", "1 +", "toJSON(inputs)", "a b"])
def test_what_is_not_known_is_an_error(text: str) -> None:
    with pytest.raises(AssertionError):
        evaluate(text, CONTEXTS)


def test_texts_are_filled() -> None:
    assert filled("${{ inputs.name }}-${{ steps.one.outputs.v }}", CONTEXTS) == "a'b-3"


@pytest.mark.parametrize(
    ("condition", "after_success", "after_failure"),
    [
        ("", True, False),
        ("always()", True, True),
        ("failure()", False, True),
        ("${{ inputs.install == '' }}", True, False),
        ("always() && inputs.install != ''", False, False),
    ],
)
def test_conditions(condition: str, after_success: bool, after_failure: bool) -> None:
    found = [runs(condition, CONTEXTS, failed=failed) for failed in (False, True)]
    assert found == [after_success, after_failure]


def test_commands_are_obeyed_unless_they_are_stopped() -> None:
    log = (
        "text ::error::in a line\n  ::error title=x::one\nprefix ##[add-mask]two\n"
        "::stop-commands::abc\n::error::no\n##[error]no\n::abd::\n::abc::\n::warning::three\n"
    )
    assert obeyed(log) == [("error", "one"), ("add-mask", "two"), ("warning", "three")]
    with pytest.raises(AssertionError, match="never started again"):
        obeyed("::stop-commands::abc\n")


def test_outputs_are_one_line_each() -> None:
    assert assigned("a=1\nb-c=x=y\n") == {"a": "1", "b-c": "x=y"}
    with pytest.raises(AssertionError, match="Invalid format"):
        assigned("a=1\nsecond line\n")
