"""Values between the process with the program and the process with its tests, as JSON.

Only data goes over: numbers, texts, containers, and a few types of the standard library. A subclass
goes over as the type that it extends. So an object of the program arrives as plain data, and its
own `__eq__` stays behind. Everything else (functions, classes, iterators, other objects) arrives as
a handle. Aliases inside a value are not kept.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from types import ModuleType
from typing import Any

__all__ = ["decode", "encode"]

Json = Any
EXACT_INT = 1 << 63
"""Integers up to this size are written in decimal; Python limits the length of longer ones."""
CONTAINERS = {kind.__name__: kind for kind in (list, tuple, set, frozenset)}
STANDARD: dict[str, Callable[[Any], list[Any]]] = {
    "builtins.complex": lambda value: [value.real, value.imag],
    "builtins.range": lambda value: [value.start, value.stop, value.step],
    "builtins.slice": lambda value: [value.start, value.stop, value.step],
    "collections.Counter": lambda value: [dict(value)],
    "collections.OrderedDict": lambda value: [list(value.items())],
    "collections.deque": lambda value: [list(value), value.maxlen],
    "datetime.date": lambda value: [value.year, value.month, value.day],
    "datetime.datetime": lambda value: [*value.timetuple()[:6], value.microsecond],
    "datetime.time": lambda value: [value.hour, value.minute, value.second, value.microsecond],
    "datetime.timedelta": lambda value: [value.days, value.seconds, value.microseconds],
    "decimal.Decimal": lambda value: [str(value)],
    "fractions.Fraction": lambda value: [value.numerator, value.denominator],
}
"""Types of the standard library that are data, and the arguments that make an equal value."""


def encode(value: Any, handle: Callable[[Any], Json]) -> Json:
    """Write a value as JSON.

    Args:
        value: the value.
        handle: gives the JSON of what is not data.
    """
    if value is None or type(value) in (bool, float, str):
        return value
    if isinstance(value, int):
        number = int(value)
        return number if -EXACT_INT <= number < EXACT_INT else ["int", hex(number)]
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return "".join(value)
    if isinstance(value, bytes | bytearray):
        name = "bytes" if isinstance(value, bytes) else "bytearray"
        return [name, bytes(value).decode("latin-1")]
    kind = type(value)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if name in STANDARD and not getattr(value, "tzinfo", None):
        return [name, *_encode_all(STANDARD[name](value), handle)]
    for name, container in CONTAINERS.items():
        if isinstance(value, container):
            return [name, *_encode_all(value, handle)]
    if isinstance(value, dict):
        return ["dict", *_encode_all([part for pair in value.items() for part in pair], handle)]
    if isinstance(value, ModuleType) and value.__name__ in sys.stdlib_module_names:
        return ["module", value.__name__]
    if kind is type and getattr(builtins, value.__name__, None) is value:
        return ["type", value.__name__]
    return handle(value)


def _encode_all(values: Iterable[Any], handle: Callable[[Any], Json]) -> list[Json]:
    return [encode(value, handle) for value in values]


def decode(data: Json, resolve: Callable[[list[Json]], Any]) -> Any:
    """Read a value that `encode` wrote. Data that it cannot have written is an error.

    Args:
        data: the JSON.
        resolve: gives the object of a handle.

    Raises:
        ValueError: not such data.
    """
    if data is None or isinstance(data, bool | int | float | str):
        return data
    match data:
        case ["int", str(text)]:
            return int(text, 16)
        case ["bytes" | "bytearray" as name, str(text)]:
            return (bytes if name == "bytes" else bytearray)(text.encode("latin-1"))
        case ["dict", *parts]:
            values = [decode(part, resolve) for part in parts]
            return dict(zip(values[::2], values[1::2], strict=True))
        case ["module", str(name)] if name in sys.stdlib_module_names:
            return import_module(name)
        case ["type", str(name)] if isinstance(found := getattr(builtins, name, None), type):
            return found
        case [str(name), *parts] if name in CONTAINERS:
            return CONTAINERS[name](decode(part, resolve) for part in parts)
        case [str(name), *parts] if name in STANDARD:
            module, _, attribute = name.partition(".")
            maker = getattr(import_module(module), attribute)
            return maker(*(decode(part, resolve) for part in parts))
        case _:
            return resolve(data)
