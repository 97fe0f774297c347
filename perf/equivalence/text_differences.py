"""Differences between two texts: output with tables, Markdown, XML and scripts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Any, NamedTuple
from xml.etree import ElementTree

from .differences import Difference, is_prose, of_json, of_strings

BORDER = re.compile(r"[┏┳┓┡╇┩┗┻┛┠╂┨┌┬┐├┼┤└┴┘━─╍\s]+")
MARKDOWN_BORDER = re.compile(r"\|[\s:|-]+\|")
COMMENT = re.compile(r"^\s*#(?!!)(.*)$|\s+# (.*)$")


class Item(NamedTuple):
    """A line of text, or a row of a table. `kind` is text, row or header."""

    kind: str
    cells: tuple[str, ...]


def items(lines: Sequence[str]) -> list[Item]:
    """Lines and table rows, without borders, padding and empty lines."""
    found: list[Item] = []
    for line, following in pairwise([*lines, ""]):
        text = " ".join(line.split())
        mark = text[:1]
        if not text or BORDER.fullmatch(text) or MARKDOWN_BORDER.fullmatch(text):
            continue
        if mark in ("┃", "│", "|"):
            cells = tuple(cell.strip() for cell in text.strip(mark).split(mark))
            heads = mark == "┃" or bool(MARKDOWN_BORDER.fullmatch(following.strip()))
            found.append(Item("header" if heads else "row", cells))
        else:
            found.append(Item("text", (text,)))
    return found


def of_text(before: Sequence[str], after: Sequence[str], place: str) -> Iterator[Difference]:
    """Differences of two texts. Rows of tables are compared cell by cell."""
    old, new = items(before), items(after)
    for tag, i, j, k, m in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        for kind in ("header", "row", "text"):
            sides = [
                [one.cells for one in part if one.kind == kind] for part in (old[i:j], new[k:m])
            ]
            yield from _of_block(sides[0], sides[1], (*place.split("."), kind))


def _of_block(
    before: list[tuple[str, ...]], after: list[tuple[str, ...]], fields: tuple[str, ...]
) -> Iterator[Difference]:
    """Differences of adjacent rows of one kind; a line of text is a row with one cell."""
    place = ".".join(fields)
    if not before or not after:
        for row in before:
            prose = all(is_prose(cell, fields) for cell in row if cell) and fields[-1] != "row"
            yield Difference("words" if prose else "values", place, " | ".join(row), "(removed)")
        for row in after:
            yield Difference("new", place, "", " | ".join(row))
    elif len({len(row) for row in (*before, *after)}) > 1:
        sides = (" / ".join(" | ".join(row) for row in side) for side in (before, after))
        yield Difference("values", place, *sides)
    elif len(before) == len(after):
        for one, other in zip(before, after, strict=True):
            for old, new in zip(one, other, strict=True):
                yield from of_strings(old, new, fields)
    else:  # the same text may be wrapped in another way: join the lines of every column
        for column in range(len(before[0])):
            old, new = ([row[column] for row in side] for side in (before, after))
            prose = any(is_prose(t, fields) for t in old) and any(is_prose(t, fields) for t in new)
            yield from of_strings(" ".join(old), " ".join(new), fields, prose)


def of_markdown(before: Sequence[str], after: Sequence[str], place: str) -> Iterator[Difference]:
    """Differences of Markdown. Front matter and code hold values, in any order."""
    old, new = _markdown_parts(before), _markdown_parts(after)
    yield from of_text(old["text"], new["text"], f"{place}.text")
    yield from _of_lines(old["code"], new["code"], f"{place}.code")


def _markdown_parts(lines: Sequence[str]) -> dict[str, list[str]]:
    """The lines of Markdown in two parts: code (with front matter) and text."""
    parts: dict[str, list[str]] = {"code": [], "text": []}
    fence = ""
    for number, line in enumerate(lines):
        mark = "---" if line == "---" and (fence == "---" or not number) else line.strip()[:3]
        if fence:
            if mark == fence:
                fence = ""
            else:
                parts["code"].append(line)
        elif mark in ("```", "~~~") or (mark == "---" and not number):
            fence = mark
        else:
            parts["text"].append(line)
    return parts


def _of_lines(before: list[str], after: list[str], place: str) -> Iterator[Difference]:
    """Lines `KEY: VALUE` or commands, in any order. A removed line fails, an added one is new."""
    rest = list((Counter(after) - Counter(before)).elements())
    for line in (Counter(before) - Counter(after)).elements():
        key = line.partition(":")[0]
        other = next((one for one in rest if one.partition(":")[0] == key), "")
        if other:
            rest.remove(other)
        yield Difference("values", place, line.strip(), other.strip() or "(removed)")
    for line in rest:
        yield Difference("new", place, "", line.strip())


def of_script(before: Sequence[str], after: Sequence[str], place: str) -> Iterator[Difference]:
    """Differences of scripts: comments are words, every other change is a value."""
    sides = []
    for lines in (before, after):
        code = [COMMENT.sub("", line).rstrip() for line in lines]
        comments = [found[1] or found[2] or "" for line in lines if (found := COMMENT.search(line))]
        sides.append(([line for line in code if line], " ".join(comments)))
    (old, old_comments), (new, new_comments) = sides
    if old != new:
        for tag, i, j, k, m in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
            if tag != "equal":
                yield Difference("values", place, "; ".join(old[i:j]), "; ".join(new[k:m]))
    yield from of_strings(old_comments, new_comments, (*place.split("."), "comments"), True)


def of_xml(before: Sequence[str], after: Sequence[str], place: str) -> Iterator[Difference]:
    """Differences of XML: attributes and texts, by the rules of JSON."""
    texts = ("\n".join(side).strip() for side in (before, after))
    trees = (ElementTree.fromstring(text) for text in texts)  # nosec B314  # our own output
    old, new = map(_tree, trees)
    yield from of_json(old, new, tuple(place.split(".")))


def _tree(node: ElementTree.Element) -> dict[str, Any]:
    """An XML element as a dictionary."""
    children = {f"{child.tag} {number}": _tree(child) for number, child in enumerate(node)}
    return {**node.attrib, "text": " ".join((node.text or "").split()), **children}


def of_file(name: str) -> Callable[[Sequence[str], Sequence[str], str], Iterator[Difference]]:
    """The comparison that fits a text file of this name."""
    kinds = {"md": of_markdown, "xml": of_xml, "sh": of_script, "pbtxt": of_script}
    return kinds.get(name.rpartition(".")[2], of_text)
