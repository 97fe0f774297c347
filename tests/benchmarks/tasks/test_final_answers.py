"""Final answers of models: which text is the answer, and which texts are the same answer."""

from __future__ import annotations

import pytest

from edgewright.benchmarks.tasks.final_answers import extract_answer, number_in, same_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("She has 16 - 3 = 13 left.\n#### 13", "13"),
        ("So \\boxed{\\frac{1}{2}} it is, of 12.", "\\frac{1}{2}"),
        ("3 <think> 4 </think>\nThe answer is: **-1,200**.", "-1,200"),
        ("First 3, and then 4.5 apples", "4.5"),
        ("I do not know", ""),
        ("#### 3\nor rather\n#### 4", "4"),
        ("<think> 7 </think>\n", ""),
        ("Then x = 1.5e3.", "1.5e3"),
        ("That leaves 10-3", "3"),
        ("So it is .5", ".5"),
        ("The answer is not 5. It is 6", "6"),
        ("The answer isn't clear, but I found 9", "9"),
        ("Final Answer: The final answer is 12", "12"),
        ("The answer is 3 at first, but the answer is 4.\nGood.", "4"),
    ],
)
def test_the_final_answer_is_found(text: str, answer: str) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("expected", "given", "same"),
    [
        ("1200", "$1,200", True),
        ("1/2", "0.5", True),
        ("\\frac{1}{2}", "0.5", True),
        ("x+1", "1+x", True),
        ("Paris", "paris", True),
        ("13", "12", False),
        ("13", "", False),
        ("0.5", "0.51", False),
        ("Paris", "Rome", False),
        ("1234567", "1{,}234,\\!567", True),
        ("1200", "€1,200", True),
        ("12", "1,2", False),
        ("12", "(1,2)", False),
        ("235", "\\{2,3,5\\}", False),
        ("100200", "(100,200)", False),
        ("ab", "a,b", False),
        ("2, 3", "3,2", True),
        ("0.5", "50%", True),
        ("50\\%", "0.5", True),
        ("50", "50 percent", True),
        ("0.5", "5%", False),
        ("50%", "50\\%", True),
        ("1000", "1e3", True),
        ("0.0125", "1.25e-2", True),
        ("13", "1e3", False),
        ("-3", "−3", True),
        ("-3", "3", False),
    ],
)
def test_answers_are_compared_as_mathematics(expected: str, given: str, same: bool) -> None:
    assert same_answer(expected, given) is same
    if given:
        assert same_answer(given, expected) is same


@pytest.mark.parametrize(
    "noun",
    [
        "clips",
        "dollars",
        "eggs",
        "bolts in total",
        "meters a week",
        "km/h",
        "%",
        "",
        "degrees",
        "m",
    ],
)
def test_the_noun_behind_a_number_does_not_matter(noun: str) -> None:
    for expected, given in (("1,234", f"1234 {noun}"), (f"1,234 {noun}", "1234")):
        assert same_answer(expected, given)
        assert not same_answer(expected.replace("4", "5"), given)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12, because 3*4 = 12", "12"),
        ("12 (3 * 4)", "12"),
        ("5 (five)", "5"),
        ("approximately 42", "42"),
        ("≈ 42", "42"),
        ("42. That is all, of 50", "42"),
        ("24 + 48 = 72 clips", "72"),
        ("\\(18\\) \\text{dollars}", "18"),
        ("18 dollars for 3 days", "18"),
        ("7 or 8", ""),
        ("10 minutes and 30 seconds", ""),
        ("10:30 am", ""),
        ("1.5 million", ""),
        ("2 pi", ""),
        ("2 and a half hours", ""),
        ("2^{10} bytes", ""),
        ("\\frac{3}{4} cups", ""),
        ("2 1/2 cups", ""),
        ("May 5, 2020", ""),
        ("twelve", ""),
        ("42", ""),
        ("x + 1", ""),
    ],
)
def test_the_number_that_words_give(text: str, number: str) -> None:
    assert number_in(text) == number


def test_texts_with_numbers_are_compared_as_texts() -> None:
    assert same_answer("10:30 am", "10:30 AM")
    assert same_answer("1.5 million", "1.5 million")
    assert not same_answer("10", "10:30 am")
    assert not same_answer("1.5", "1.5 million")
