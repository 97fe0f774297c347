r"""Find the final answer in a model's text, and compare it with the right one as mathematics.

The package math-verify (Kydlíček et al. 2025) parses both, so 1/2, 0.5 and \frac{1}{2} are the same
answer. It takes the letters of a noun for variables, so `72 clips` is read here first: as 72.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

from ...errors import EdgewrightError

__all__ = ["extract_answer", "number_in", "require_math_verify", "same_answer"]

MARKS = (
    re.compile(r"####\s*(.+)"),  # GSM8K
    re.compile(r"^.*\banswer\s*(?:is\b(?!\s+not\b)|:|=)[\s:]*(.+)", re.IGNORECASE | re.MULTILINE),
)
BOXED = "\\boxed{"
NUMBER = re.compile(
    r"(?:(?<![\d)])[-−])?[$€£¥]?(?:\d+(?:,\d+)*(?:\.\d+)?|(?<![\w.])\.\d+)"
    r"(?:[eE][-+]?\d{1,3}(?!\w))?(?:/\d+)?%?"
)
POWER = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?|\.\d+)[eE]([-+]?\d{1,3})(?!\w)")
THOUSANDS = re.compile(r"(?<![\d,.([])(?<!\\\{)\d{1,3}(?:,\d{3})+(?![\d,])")
CURRENCY = re.compile(r"\\?[$€£¥]")
PERCENT = re.compile(r"\\?%|\s*\bpercent\b")
LAYOUT = re.compile(r"\\(?:text|textbf|mathrm|mbox)\s*\{([^{}]*)\}|\\[()\[\]]|\\ ")
WORD = re.compile(r"[^\W\d_]{2,}|[≈~]")
REMARK = re.compile(r"\.\s|;|\s\(|\b(?:because|since|as)\b")
"""Behind it stands an explanation of the answer."""
JOIN = re.compile(
    r"\b(?:and|or|to|of|plus|minus|times)\b|[-–,:+*/×^]\s*$|^\s*[-–:+*/×^]|^\s*$", re.IGNORECASE
)
"""What stands between two numbers if neither of them is the answer."""
FACTORS = re.compile(
    r"\b(?:(?:half|quarter|dozen|hundred|thousand|million|billion|trillion)s?"
    r"|pi|sqrt|sin|cos|tan|log|ln|exp)\b",
    re.IGNORECASE,
)
"""Words that make another number of the one beside them."""
AROUND = " *`\"'"


def extract_answer(text: str) -> str:
    r"""The final answer of a solution, or an empty string.

    Everything up to `</think>` is ignored. The first of these that exists is used: the text after
    the last `####`, the content of the last `\boxed{}`, the text after the last `answer is` or
    `answer:`, the last number.
    """
    _, _, reply = text.rpartition("</think>")
    boxed = _boxed(reply)
    for found in (
        MARKS[0].findall(reply),
        [boxed] if boxed else [],
        MARKS[1].findall(reply),
        NUMBER.findall(reply),
    ):
        if found:
            return str(found[-1]).strip().rstrip(".").strip(AROUND)
    return ""


def _boxed(text: str) -> str:
    r"""The content of the last \boxed{...}, which may contain braces."""
    begin = text.rfind(BOXED)
    if begin < 0:
        return ""
    depth = 0
    start = begin + len(BOXED)
    for at in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth < 0:
            return text[start:at]
    return ""


def number_in(text: str) -> str:
    """The number that a few words give as the answer: 72 of `72 clips` or `72, because 3*24`.

    It is empty for a text without words, and where it is not clear which number is meant, as in
    `7 or 8`, `1.5 million` and formulas.
    """
    plain = LAYOUT.sub(r" \1 ", text)
    answer, *remarks = REMARK.split(plain, maxsplit=1)
    if "\\" in plain or not (remarks or WORD.search(plain)) or FACTORS.search(answer):
        return ""
    result = answer.rpartition("=")[2]
    said = result if NUMBER.search(result) else answer
    found = list(NUMBER.finditer(said))
    if not found or (len(found) > 1 and JOIN.search(said[found[0].end() : found[1].start()])):
        return ""
    return found[0][0]


def require_math_verify() -> Any:
    """Import math-verify, which compares answers. Call this before a model starts to work.

    Raises:
        EdgewrightError: it is not installed.
    """
    try:
        return importlib.import_module("math_verify")  # here, because it is an optional extra
    except ImportError as error:
        raise EdgewrightError(
            "comparing answers needs math-verify, which is not installed",
            "pip install 'edgewright[eval]'",
        ) from error


def same_answer(expected: str, given: str) -> bool:
    """Whether two final answers are the same number, expression or text.

    Beside a number, a text stands for the number in it. Where only one side is a percentage, it
    may mean the number itself or a hundredth of it.
    """
    sides = [_plain(side) for side in (expected, given)]
    if not sides[1]:
        return False
    for side, other in ((0, 1), (1, 0)):
        if NUMBER.fullmatch(sides[other]):
            sides[side] = number_in(sides[side]) or sides[side]
    readings = [sides]
    if ("%" in sides[0]) != ("%" in sides[1]):
        readings.append([side.replace("%", "") for side in sides])
    return any(_equal(*reading) for reading in readings)


def _plain(text: str) -> str:
    """A final answer without what does not change it: currency, and commas of thousands."""
    text = CURRENCY.sub("", text.replace("{,}", ",").replace("\\!", "").replace("\\,", ""))
    text = THOUSANDS.sub(lambda found: found[0].replace(",", ""), text)
    return PERCENT.sub("%", text).replace("−", "-").strip()


def _equal(expected: str, given: str) -> bool:
    """Whether two plain answers are equal as texts or as mathematics."""
    if expected.casefold() == given.casefold():
        return True
    library = require_math_verify()
    gold, found = (library.parse(f"${_latex(side)}$") for side in (expected, given))
    return bool(gold and found and library.verify(gold, found))


def _latex(text: str) -> str:
    """A plain answer as math-verify reads it."""
    powers = POWER.sub(lambda found: f"{found[1]}*10^{{{int(found[2])}}}", text)
    return powers.replace("%", "\\%")
