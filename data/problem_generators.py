"""Generators of the built-in problems: sums, products, greatest common divisors, legs of animals.

They make the problems of the generators `chain_sum`, `products`, `gcd` and `leg_counting` in the
package reasoning-gym, from the same random numbers. A test compares both. The package is an extra;
the demo needs none.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from math import gcd
from random import Random
from typing import Any

__all__ = ["GENERATORS", "LEGS", "is_answer"]

_ANIMALS = {
    0: "snake, sea slug, jellyfish, flatworm, leech",
    2: "chicken, bird, human, duck",
    4: "dog, cat, cow, horse, lion, elephant, giraffe, tiger, deer, sheep",
    5: "starfish",
    6: "insect, ant, butterfly, beetle, bee, wasp, grasshopper, cricket, cockroach, "
    "praying mantis, firefly",
    8: "spider, scorpion",
    10: "crab, lobster, shrimp",
    14: "woodlouse",
}
LEGS = {name: legs for legs, names in _ANIMALS.items() for name in names.split(", ")}
"""Animal -> its legs, in the order in which animals are drawn."""
TRIES = 3
"""Draws of two numbers, until they have a common divisor."""


def _number(rng: Random, digits: int) -> int:
    """A number with so many digits; of one digit, also 0."""
    return rng.randint(0 if digits == 1 else 10 ** (digits - 1), 10**digits - 1)


def _chain_sum(rng: Random) -> tuple[str, int, dict[str, Any]]:
    terms = rng.randint(2, 5)
    digits = rng.randint(1, 2)
    numbers = [_number(rng, digits) for _ in range(terms)]
    signs = [rng.choice(["+", "-"]) for _ in range(terms - 1)]
    expression = str(numbers[0])
    total = numbers[0]
    for sign, number in zip(signs, numbers[1:], strict=True):
        expression += f" {sign} {number}"
        total += number if sign == "+" else -number
    question = f"State the final answer to the following arithmetic problem: {expression} ="
    return question, total, {"expression": expression}


def _products(rng: Random) -> tuple[str, int, dict[str, Any]]:
    rng.randint(2, 2)  # the number of factors and of digits: drawn, although there is one choice
    rng.randint(2, 2)
    one = _number(rng, 2)
    other = _number(rng, 2)
    expression = f"{one} * {other}"
    question = (
        f"Solve the following multiplication: {expression}. Give only the result as your final "
        "answer."
    )
    return question, one * other, {"expression": expression}


def _gcd(rng: Random) -> tuple[str, int, dict[str, Any]]:
    numbers: list[int] = []
    for _ in range(TRIES):
        rng.randint(2, 2)
        numbers = [rng.randint(2, 99), rng.randint(2, 99)]
        if gcd(*numbers) > 1:
            break
    listed = ", ".join(map(str, numbers))
    question = (
        f"Find the Greatest Common Divisor (GCD) of these numbers: {listed}. Give only the GCD as "
        "your final answer."
    )
    return question, gcd(*numbers), {"numbers": numbers}


def _leg_counting(rng: Random) -> tuple[str, int, dict[str, Any]]:
    chosen = rng.sample(list(LEGS), rng.randint(2, 5))
    animals = {animal: rng.randint(1, 15) for animal in chosen}
    listed = ", ".join(f"{n} {animal}{'s' if n > 1 else ''}" for animal, n in animals.items())
    question = (
        "Your task is to count how many legs there are in total when given a list of animals.\n\n"
        f"Now, how many legs are there in total if you have {listed}?\n"
    )
    return question, sum(n * LEGS[animal] for animal, n in animals.items()), {"animals": animals}


GENERATORS: dict[str, Callable[[Random], tuple[str, int, dict[str, Any]]]] = {
    "chain_sum": _chain_sum,
    "products": _products,
    "gcd": _gcd,
    "leg_counting": _leg_counting,
}
"""Task -> from random numbers to question, answer, and what the solution steps are made of."""


def is_answer(task: str, answer: str, right: str) -> bool:
    """Whether an answer is the right one.

    Of sums and products it is compared as a number: a sign, leading zeros, trailing decimals and
    commas are allowed. Other answers must be the same text.
    """
    if task not in ("chain_sum", "products"):
        return answer == right
    try:
        return Decimal(answer.replace(",", "")) == Decimal(right)
    except ArithmeticError:  # no number
        return False
