"""Finds valid results to reuse: from an earlier start of the same run, or from other runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..benchmarks.ledger_files import MEASURED
from ..checkpoints.atomic_files import copy_file
from ..checkpoints.directories import atomic_directory
from ..checkpoints.hashing import content_hash
from ..console import console
from ..steps.workspace import differences
from .fingerprint import fingerprint
from .ledger import Ledger
from .run_files import SAMPLES

__all__ = ["Reuse"]


class Reuse:
    """Finds results that are still valid: in the run's own ledger, then in those of the donors."""

    def __init__(self, ledger: Ledger, order: list[str], donors: Sequence[Ledger]) -> None:
        """Look in a run and in its donors.

        Args:
            ledger: ledger of the run.
            order: names of the run's steps.
            donors: ledgers of other runs with results that may be the same.
        """
        self.ledger = ledger
        self.order = order
        self.donors = donors

    def entry(self, name: str, fields: Mapping[str, Any], folder: Path) -> dict[str, Any] | None:
        """The entry of a step whose result is valid, or None; a message says why it is not.

        Args:
            name: name of the step.
            fields: everything that its result depends on now.
            folder: directory of its result.
        """
        old = self.ledger.step(name)
        if old is None:
            if why := self.ledger.altered.pop(name, ""):
                console.print(f"  {why}", highlight=False, markup=False)
            return self._from_donor(name, fields, folder)
        if old["fingerprint"] != fingerprint(fields):
            changed = ", ".join(differences(old["depends_on"], fields)) or "fingerprint"
            console.print(f"  made again: {changed} changed", highlight=False)
            return self._from_donor(name, fields, folder)
        if not folder.is_dir() or content_hash(folder) != old.get("output_hash"):
            console.print(f"  made again: {folder} was altered or removed since", highlight=False)
            return None
        console.print("  reused")
        return old

    def measurement(self, name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The measurement of a donor's step with the same fingerprint; empty if none has one."""
        for folder, entry in self._donated(name, fields):
            self._copy_samples(folder, entry)
            return {key: entry[key] for key in MEASURED if key in entry}
        return {}

    def _donated(
        self, name: str, fields: Mapping[str, Any]
    ) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Run directory and entry of every donor that has finished the same step."""
        for donor in self.donors:
            entry = donor.step(name)
            if entry and entry["fingerprint"] == fingerprint(fields) and entry["metrics"]:
                yield donor.path.parent, entry

    def _from_donor(
        self, name: str, fields: Mapping[str, Any], folder: Path
    ) -> dict[str, Any] | None:
        """The entry of a donor whose result is unaltered, with its files in `folder`.

        Files are hard links, because no step changes a file in place.
        """
        for donor, entry in self._donated(name, fields):
            source = donor / entry["output"]
            if source.is_dir() and content_hash(source) == entry["output_hash"]:
                with atomic_directory(folder) as temporary:
                    shutil.copytree(source, temporary, copy_function=_link, dirs_exist_ok=True)
                self._copy_samples(donor, entry)
                self.ledger.put(entry, self.order)
                console.print(f"  taken over from {donor}", highlight=False)
                return dict(entry)
        return None

    def _copy_samples(self, donor: Path, entry: Mapping[str, Any]) -> None:
        samples = self.ledger.path.parent / SAMPLES
        for file in (donor / SAMPLES).glob(f"{entry['name']}.json*"):
            samples.mkdir(exist_ok=True)
            copy_file(file, samples / file.name)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
