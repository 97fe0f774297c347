"""What every step receives and returns, in a recipe and as a CLI verb."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.config import is_builtin
from ..checkpoints.tokenizer import load_tokenizer
from ..data.packing import Encoded, rows_hash
from ..data.rows import BadRows, RowReport
from ..data.shortfall import shortfall
from ..data.sources import Source, training_rows
from .options import AUTO, OWN, PROMPTS, REASONING, Proof
from .own_text import OwnText

if TYPE_CHECKING:  # torch takes seconds to import, and a plan needs no rows
    from torch import Tensor

__all__ = ["CalibrationData", "CalibrationRows", "StepContext", "StepResult", "as_tensor"]


class CalibrationRows(list["Tensor"]):
    """Rows int64 [2, seq_len] of ids and labels, and what happened to the data they are from."""

    def __init__(self, rows: Iterable[Tensor], report: RowReport) -> None:
        super().__init__(rows)
        self.report = report


@dataclass(frozen=True)
class CalibrationData:
    """The text that a step measures activations on, and how much of it."""

    source: str = REASONING
    samples: int = 128
    seq_len: int = 512
    bad_rows: BadRows = "refuse"
    own: OwnText | None = None
    """The model that writes the text, if the source is `builtin:own`."""
    only_measures: bool = False
    """Nothing but figures in notes depends on the text, so any number of rows will do."""

    def resolved(self, own: OwnText, *, needed: bool) -> CalibrationData:
        """The data with `auto` and `builtin:own` settled for one step. Nothing is generated.

        `auto` is the task of the built-in model for models of its kind, and `builtin:own` for all
        others. A step that only measures on the text gets the prompts, which need no model.

        Args:
            own: the model that would write the text.
            needed: whether the result of the step depends on the text.
        """
        source = self.source
        if source == AUTO:
            source = REASONING if is_builtin(own.model) else OWN
        if source != OWN:
            return replace(self, source=source)
        return (
            replace(self, source=OWN, own=own)
            if needed
            else replace(self, source=PROMPTS, only_measures=True)
        )

    def rows(self, model: Path, seed: int) -> CalibrationRows:
        """Rows of ids and labels: `samples`, or fewer if the source is small."""
        report = RowReport(self.bad_rows)
        tokenizer = load_tokenizer(model)
        encoded: Iterable[Encoded]
        if self.own:
            encoded = self.own.rows(tokenizer, self.samples, self.seq_len)
        else:
            source = Source.parse(self.source)
            encoded = training_rows(tokenizer, source, self.seq_len, seed, self.samples, report)
        return CalibrationRows(map(as_tensor, encoded), report)

    def identity(self) -> dict[str, Any]:
        """What the rows depend on besides the content of the data and the tokenizer."""
        asked = {name: value for name, value in vars(self).items() if name != "own"}
        return {**asked, "written_by": self.own.identity} if self.own else asked

    def used(self, rows: CalibrationRows) -> dict[str, Any]:
        """The calibration for the provenance: the rows that were used, not those asked for."""
        found: dict[str, Any] = {
            "source": self.source,
            "samples": len(rows),
            "seq_len": self.seq_len,
        }
        if self.own:
            found["written_by"] = self.own.identity
            found["rows_hash"] = rows_hash([Encoded(*row.tolist()) for row in rows])
        if len(rows) != self.samples:
            found["samples_asked"] = self.samples
        if rows.report.skipped:
            found["skipped_rows"] = rows.report.skipped
        return found

    def notes(self, rows: CalibrationRows) -> list[str]:
        """Notes on fewer rows than asked for, and on rows of the data that were not used whole."""
        notes = rows.report.notes(self.source)
        if self.only_measures:
            text = f"{len(rows)} rows of {self.seq_len} tokens of the built-in prompts"
            return [f"measured on {text}"]
        if self.own:
            notes.append(self.own.summary(len(rows), self.seq_len))
        what = f"calibration rows of {self.seq_len} tokens"
        return notes + shortfall(len(rows), self.samples, what, f"{self.source} holds no more")


def as_tensor(row: Encoded) -> Tensor:
    """Ids and labels of a row as int64 [2, length]."""
    import torch  # late: a plan needs no rows

    return torch.tensor([row.ids, row.labels])


@dataclass(frozen=True)
class StepContext:
    """Everything that a step needs beside its own options."""

    calibration: CalibrationData = field(default_factory=CalibrationData)
    seed: int = 0
    device: str = "cpu"
    resolve: Callable[[str], Path] = Path
    """From the name of an earlier step, or of a model, to its directory."""
    proof: Proof = "auto"
    """How a pruned model is verified: loaded whole with stock transformers, or streamed."""
    activation_budget: int = 1 << 30
    """Bytes of hidden states kept in memory; the rest goes to a file beside the output."""
    memory_check: bool = True
    """Refuse a step that is predicted to need more memory than is free."""
    depends_on: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Everything that the result depends on, by field. Empty: no work in progress is reused."""
    fresh: bool = False
    """Discard work in progress of an interrupted run."""


@dataclass
class StepResult:
    """What a step reports, beside the directory that it wrote."""

    notes: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    """Data for the report: `head_importance`, `pruned_heads`, `loss`, `modules`, `parity`."""
