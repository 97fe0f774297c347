"""Reads JSON and YAML that others wrote: within limits, and with one message for whatever is wrong.

A document may be huge, nested without end, or expand itself (YAML aliases). None of this may cost
more than a moment, so a document is measured before anything else looks at it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from stat import S_ISREG
from typing import Any

import yaml

from .errors import EdgewrightError, UsageError

__all__ = [
    "YAML_BYTES",
    "in_hand",
    "parse_json",
    "parse_yaml",
    "read_bytes",
    "read_json",
    "read_object",
    "read_text",
    "to_yaml",
]

JSON_BYTES = 64 << 20
"""The largest JSON file; the index of a model of a trillion parameters has 10 MB."""
YAML_BYTES = 256 << 10
"""The largest YAML file; the parser reads 100 kB in a second."""
DEEPEST = 100
"""How deep lists and mappings may be nested."""
YAML_VALUES = 100_000
"""The most values in a YAML file, with every alias written out."""
EXPONENT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+\Z")
"""The numbers of YAML 1.2, and of everybody else, that YAML 1.1 takes for texts: `1e-3`, `2E4`."""


class _Loader(yaml.SafeLoader):
    """PyYAML's reader, of YAML 1.1, with the numbers of YAML 1.2."""


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back: a text that looks like a number is quoted."""


for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+.0123456789"))


@contextmanager
def in_hand(what: object) -> Iterator[None]:
    """Add to an error that nobody expected what was being read; `console.complain` prints it."""
    try:
        yield
    except EdgewrightError:
        raise
    except Exception as error:
        error.add_note(f"while reading {what}")
        raise


def read_bytes(file: Path, hint: str, most: int) -> bytes:
    """The bytes of a regular file.

    Args:
        file: what to read.
        hint: what to do if it cannot be read.
        most: the largest size in bytes.

    Raises:
        UsageError: it cannot be read, is no file, or is too large.
    """
    try:
        if not S_ISREG(os.stat(file).st_mode):  # opening a named pipe would wait for ever
            raise UsageError(f"{file}: cannot be read: it is no file", hint)
        with open(file, "rb") as handle:
            data = handle.read(most + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{file}: cannot be read: {reason}", hint) from error
    if len(data) > most:
        raise UsageError(f"{file}: larger than {most >> 10:,} kB", hint)
    return data


def read_text(file: Path, hint: str, most: int = JSON_BYTES) -> str:
    """The text of a regular file in UTF-8.

    Raises:
        UsageError: as `read_bytes`, or it is not UTF-8.
    """
    data = read_bytes(file, hint, most)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: not UTF-8 text: {error}", hint) from error


def read_json(file: Path, hint: str, most: int = JSON_BYTES, *, halves: bool = False) -> Any:
    """The value in a JSON file; `halves`: see `parse_json`.

    Raises:
        UsageError: as `read_bytes` and `parse_json`.
    """
    return parse_json(read_bytes(file, hint, most), str(file), hint, halves=halves)


def read_object(file: Path, hint: str, most: int = JSON_BYTES) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UsageError: as `read_json`, or it is another value.
    """
    value = read_json(file, hint, most)
    if not isinstance(value, dict):
        raise UsageError(f"{file}: not a JSON object", hint)
    return value


def parse_json(text: str | bytes, where: str, hint: str, *, halves: bool = False) -> Any:
    """The value of a JSON text.

    Args:
        text: the JSON.
        where: its name in messages.
        hint: what to do if it is wrong.
        halves: accept halves of surrogate pairs, which a file of our own may hold as escapes.

    Raises:
        UsageError: it is not JSON, or nested too deep.
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise _too_deep(where, hint) from error
    except ValueError as error:  # also numbers of more than 4300 digits, and bytes in no encoding
        raise UsageError(f"{where}: not valid JSON: {error}", hint) from error
    layer: list[Any] = [value]
    for _ in range(DEEPEST):
        layer = [inner for outer in layer for inner in _children(outer)]
        if not layer:
            if not halves:
                _check_characters(json.dumps(value, ensure_ascii=False), where, hint)
            return value
    raise _too_deep(where, hint)


def _check_characters(text: str, where: str, hint: str) -> None:
    """Refuse halves of surrogate pairs, which no file and no message can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{where}: has half of a surrogate pair, which is no character", hint
        ) from error


def _children(value: Any) -> Iterator[Any]:
    """The lists and mappings directly in a value."""
    if not isinstance(value, dict | list):
        return
    for inner in value.values() if isinstance(value, dict) else value:
        if isinstance(inner, dict | list):
            yield inner


def parse_yaml(text: str, where: str, hint: str) -> tuple[yaml.Node | None, Any]:
    """The nodes of a YAML text, which know their lines, and its value.

    What aliases stand for is in the value once for each: a change of one leaves the others alone.

    Args:
        text: the YAML.
        where: its name in messages.
        hint: what to do if it is wrong.

    Raises:
        UsageError: it is not YAML, gives a key twice, or is too large or nested too deep.
    """
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, None
        _measure(node, where, hint)
        return node, _apart(loader.construct_document(node))
    except UsageError:
        raise
    except RecursionError as error:
        raise _too_deep(where, hint) from error
    except Exception as error:  # PyYAML lets errors of the types through, as for `2020-99-99`
        raise UsageError(f"{where}: not valid YAML: {error}", hint) from error
    finally:
        if loader:
            loader.dispose()


def to_yaml(value: Any, **layout: Any) -> str:
    """A value as YAML, with its keys in their order; `parse_yaml` reads the same value.

    Args:
        value: of lists, mappings and plain values.
        layout: other options of `yaml.dump`.
    """
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, **layout)


def _apart(value: Any) -> Any:
    """A value whose lists and mappings are shared by nothing."""
    if isinstance(value, dict):
        return {key: _apart(inner) for key, inner in value.items()}
    return [_apart(inner) for inner in value] if isinstance(value, list) else value


def _measure(root: yaml.Node, where: str, hint: str) -> None:
    """Refuse a document that is too deep, too large with its aliases written out, or ambiguous."""
    layer = [root]
    values = 0
    for _ in range(DEEPEST):
        values += len(layer)
        if values > YAML_VALUES:
            raise UsageError(
                f"{where}: more than {YAML_VALUES:,} values, with aliases written out", hint
            )
        inner = (one for outer in layer for one in _inner_nodes(outer, where, hint))
        layer = list(islice(inner, YAML_VALUES + 1))
        if not layer:
            return
    raise _too_deep(where, hint)


def _inner_nodes(node: yaml.Node, where: str, hint: str) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.ScalarNode):
        _check_characters(str(node.value), where, hint)
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        seen = set[tuple[str, str]]()
        for key, value in node.value:
            name = (key.tag, str(key.value)) if isinstance(key, yaml.ScalarNode) else None
            if name in seen:
                line = key.start_mark.line + 1
                raise UsageError(
                    f"{where}:{line}: the key `{key.value}` is given twice", "leave one of them out"
                )
            if name:
                seen.add(name)
            yield key
            yield value


def _too_deep(where: str, hint: str) -> UsageError:
    return UsageError(f"{where}: nested deeper than {DEEPEST} levels", hint)
