"""Compare two captures and print what differs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import help_text
from .declared import declared
from .differences import NUMBER, Difference, of_json, of_names
from .matrix import matching
from .text_differences import of_file, of_text

KINDS = ("bytes", "values", "words", "new", "declared")
FAILING = ("bytes", "values")
SHOWN = 20
"""Most failing differences that are printed per job."""


def of_files(before: Any, after: Any, name: str) -> Iterator[Difference]:
    """Differences of two records of one file. A record of an older script may hold only a hash."""
    old, new = (side if isinstance(side, dict) else {"sha256": side} for side in (before, after))
    place = f"files.{name}"
    shared = old.keys() & new.keys()
    if all(old[key] == new[key] for key in shared) or old.get("sha256", 0) == new.get("sha256"):
        return
    found: list[Difference] = []
    if "tensors" in shared:
        every = of_json(old["tensors"], new["tensors"], (place, "tensors"))
        found = [replace(one, kind="bytes") for one in every]
    elif "json" in shared:
        found = list(of_json(old["json"], new["json"], (place,)))
    elif "text" in shared:
        found = list(of_file(name)(old["text"], new["text"], place))
    elif "words" in shared or name.endswith((".md", ".html")):
        found = [Difference("words", place, "(text not recorded)", "(changed)")]
    yield from found
    if not found and "words" in shared:
        yield Difference("words", place, "(markup of the page)", "(changed)")
    elif not found and "sha256" in shared:
        yield Difference("bytes", place, str(old["sha256"])[:12], str(new["sha256"])[:12])


def of_records(before: dict[str, Any], after: dict[str, Any]) -> Iterator[Difference]:
    """All differences of the records of one job."""
    yield from of_json(before["arguments"], after["arguments"], ("arguments",))
    yield from of_json(before["code"], after["code"], ("code",))
    old, new = before["files"], after["files"]
    for name in sorted({*old} ^ {*new}):
        sides = ("there", "(removed)") if name in old else ("", "(added)")
        yield Difference("values", f"files.{name}", *sides)
    for name in sorted({*old} & {*new}):
        yield from of_files(old[name], new[name], name)
    kinds = [next((k for k in ("json", "text") if k in side), "") for side in (before, after)]
    if kinds[0] != kinds[1]:
        yield Difference("values", "output", kinds[0] or "none", kinds[1] or "none")
    elif before.get("json") is not None and after.get("json") is not None:
        yield from of_json(before["json"], after["json"], ("json",))
    elif kinds[0] == "json":
        yield from of_names(before["keys"], after["keys"], "keys")
    elif kinds[0] == "text":
        yield from _of_output(before, after)
    yield from of_text(before.get("error", []), after.get("error", []), "error")


def _of_output(before: dict[str, Any], after: dict[str, Any]) -> Iterator[Difference]:
    if "--help" in before["arguments"]:
        old, new = (help_text.parse(side["text"]) for side in (before, after))
        yield from of_json(old, new, ("help",))
    else:
        yield from of_text(before["text"], after["text"], "text")


def of_job(
    job: str, before: dict[str, Any] | None, after: dict[str, Any] | None
) -> list[Difference]:
    """All differences of a job, with those of the declared list marked as declared."""
    if not before:
        return [Difference("new", "job", "", "not in the capture before")]
    if not after:
        return [Difference("values", "job", "", "not in the capture after")]
    return [
        replace(one, kind="declared") if one.kind in FAILING and declared(job, one.place) else one
        for one in of_records(before, after)
    ]


def compare(before: Path, after: Path, only: str = "", words: bool = False) -> int:
    """Print the table and the differences. Returns 1 if bytes or values differ, else 0."""
    old, new = (json.loads(file.read_text()) for file in (before, after))
    found = {
        job: of_job(job, old.get(job), new.get(job)) for job in matching(sorted({*old, *new}), only)
    }
    print(f"| job | files | {' | '.join(KINDS)} |\n|---|{'---|' * (len(KINDS) + 1)}")
    for job, differences in found.items():
        counts = Counter(one.kind for one in differences)
        cells = [str(counts[kind]) for kind in KINDS]
        print(f"| {job} | {len((old.get(job) or new[job])['files'])} | {' | '.join(cells)} |")
    _print_failing(found)
    for kind in ("new", "declared", *(["words"] if words else [])):
        _print_grouped(found, kind)
    return _print_summary(found)


def _print_failing(found: dict[str, list[Difference]]) -> None:
    for job, differences in found.items():
        failing = [one for one in differences if one.kind in FAILING]
        if failing:
            print(f"\n{job}:")
        for one in failing[:SHOWN]:
            print(f"  {one.kind} {one.place}: {one.before[:200]} -> {one.after[:200]}")
        if len(failing) > SHOWN:
            print(f"  and {len(failing) - SHOWN} more")


def _print_grouped(found: dict[str, list[Difference]], kind: str) -> None:
    """Print differences of one kind, each once, with the jobs that have it."""
    groups: dict[tuple[str, ...], list[tuple[str, Difference]]] = {}
    for job, differences in found.items():
        for one in differences:
            if one.kind == kind:
                sides = [NUMBER.sub("#", text) for text in (one.before, one.after)]
                key = sides if kind == "words" else [one.place]
                groups.setdefault((*key,), []).append((job, one))
    if groups:
        print(f"\n{kind}:")
    for members in groups.values():
        job, one = members[0]
        more = f" and {len(members) - 1} more" if len(members) > 1 else ""
        entry = declared(job, one.place) if kind == "declared" else None
        if kind == "words":
            mark = "(!) " if any(member.changes_facts for _, member in members) else ""
            print(f"  {mark}{job}{more}, {one.place}\n    - {one.before}\n    + {one.after}")
        else:
            sides = f"{one.before[:200]} -> {one.after[:200]}" if one.before else one.after[:200]
            print(f"  {job}{more}, {one.place}: {sides}{f' ({entry.reason})' if entry else ''}")


def _print_summary(found: dict[str, list[Difference]]) -> int:
    totals = Counter(one.kind for differences in found.values() for one in differences)
    facts = sum(
        one.kind == "words" and one.changes_facts for ones in found.values() for one in ones
    )
    failing = sum(any(one.kind in FAILING for one in ones) for ones in found.values())
    equal = sum(not ones for ones in found.values())
    counts = ", ".join(f"{totals[kind]} {kind}" for kind in KINDS)
    print(f"\nDifferences: {counts}. {facts} of the words have other numbers or options.")
    print(
        f"{len(found)} jobs: {equal} identical, {len(found) - equal - failing} with allowed"
        f" differences, {failing} failing."
    )
    return int(bool(failing))
