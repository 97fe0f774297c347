"""Garbage is named as what it is, and only where the reference's answer is not the same."""

from __future__ import annotations

import pytest

from edgewright.targets.acceptance.diagnosis import diagnose
from edgewright.targets.acceptance.garbage import CAUSES, foreign_share, garbage_kind, is_loop

GOOD = "The sum of both numbers is forty two, because twenty and twenty two make it."
TOKENS = list(range(20))
LOOP = [1, 2, 3] * 8


@pytest.mark.parametrize(
    ("text", "tokens", "kind"),
    [
        (GOOD, TOKENS, None),
        ("", [], "empty"),
        (" \n", [5], "empty"),
        ("the the the the", [7] * 12, "repetition"),
        ("a b c a b c", LOOP, "repetition"),
        ("\ufffd\ufffd ab \ufffd", TOKENS, "unreadable"),
        ("\x00\x01\x02 text", TOKENS, "unreadable"),
        ("сумма обоих чисел равна сорока двум", TOKENS, "other script"),
        ("両方の数の合計は四十二ですから正しい", TOKENS, "other script"),
    ],
)
def test_kinds(text: str, tokens: list[int], kind: str | None) -> None:
    assert garbage_kind(text, tokens, GOOD, TOKENS, "What is the sum?") == kind


def test_what_the_reference_does_too_is_no_garbage() -> None:
    assert garbage_kind("", [], "", [], "?") is None
    assert garbage_kind("a b c", LOOP, "x y z", LOOP, "?") is None
    russian = "сумма обоих чисел равна сорока двум"
    assert garbage_kind(russian, TOKENS, russian, TOKENS, "?") is None
    assert garbage_kind(russian, TOKENS, GOOD, TOKENS, f"Translate: {russian}") is None


def test_a_short_loop_may_be_a_word() -> None:
    assert not is_loop([7] * 11)
    assert is_loop([1, 2, *[7] * 12])
    assert not is_loop([*[7] * 12, 1])
    assert is_loop(list(range(16)) * 3)
    assert not is_loop(list(range(17)) * 3)


def test_few_letters_show_no_script() -> None:
    assert foreign_share("да", GOOD) == 0
    assert foreign_share("числа 12 + 30", "1 + 2 = 3") == 0


def test_a_diagnosis_names_the_place() -> None:
    wrong_later = [(True, *[False] * 9)] * 8
    assert "cache" in diagnose(wrong_later, [None] * 8, 0, checked=True)[0]
    wrong = [(False,) * 10] * 8
    found = diagnose(wrong, ["repetition"] * 8, 3, checked=True)
    assert "overflow half precision" in found[0]
    assert CAUSES["repetition"] in found[1]
    assert "weights or scales" in found[2]
    assert "so the artifact is wrong and not the device" in found[3]
    assert "the runtime on the device" in diagnose(wrong, [], 0, checked=False)[-1]
    slight = [(True, True, True, False)] * 8
    assert "some layers" in diagnose(slight, [None] * 8, 0, 0.05, checked=True)[0]
    assert diagnose([(True,) * 10] * 8, [None] * 8, 0, 1e-4, checked=True) == []
