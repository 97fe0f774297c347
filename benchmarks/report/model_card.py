"""The model card of an output directory: README.md with Hugging Face's metadata and the results."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...checkpoints.artifacts import is_artifact, is_gguf, is_graph
from ...checkpoints.atomic_files import write_text
from ...checkpoints.hashing import CARD
from ...documents import YAML_BYTES, parse_yaml, to_yaml
from ...errors import UsageError
from ...steps.step import Step
from ..plain_text import plain
from .ledger_view import Record
from .pages import markdown_page
from .report_table import ReportCell, ReportColumn, ReportTable
from .snippets import snippets_for
from .step_tables import metric_text, metric_title, shown_metrics

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

__all__ = ["write_card"]

FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*$", re.DOTALL | re.MULTILINE)
INHERITED = ("license", "license_name", "license_link", "language")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def write_card(
    folder: Path,
    entry: Record,
    step: Step[Any],
    model: str,
    source: Path,
    command: str,
    baseline: Record | None = None,
) -> Path:
    """Write the card of what a step made.

    Args:
        folder: the output directory of the step.
        entry: the step's part of the ledger; its metrics are empty if nothing was measured.
        step: the step.
        model: the model at the start of the chain, by the name that the user gave.
        source: that model's directory, whose card states the license.
        command: the command line that the user typed.
        baseline: the ledger's entry of that model.

    Returns:
        The card's path.
    """
    metadata = _metadata(folder, entry, step, model, source)
    conditions = ", ".join(
        f"{key} {entry['context'][key]}"
        for key in ("backend", "device", "dtype", "threads")
        if key in entry["context"]
    )
    config = entry["config"]
    options = {key: value for key, value in config.items() if value not in (None, "", [], {})}
    text = markdown_page(
        "card.md",
        name=metadata.model_name if metadata.eval_results else folder.name,
        sentence=f"{_short(model)}: {step.done}, by edgewright.",
        rows=_rows(entry, baseline),
        conditions=conditions,
        notes=[f"step: {step.kind}", *map(str, entry["notes"])],
        options=to_yaml({step.kind: options}),
        command=command,
        snippets=snippets_for(folder, config),
        folder=folder.name,
    )
    write_text(folder / CARD, f"---\n{metadata.to_yaml()}\n---\n{text.lstrip()}")
    return folder / CARD


def _short(model: str) -> str:
    """A model's name without its path on this machine."""
    return model if HUB_ID.fullmatch(model) or model.startswith("builtin:") else Path(model).name


def _metadata(
    folder: Path, entry: Record, step: Step[Any], model: str, source: Path
) -> ModelCardData:
    """The YAML block at the top of the card."""
    from huggingface_hub import EvalResult, ModelCardData  # late: it comes with transformers

    library = "onnx" if is_graph(folder) else "gguf" if is_gguf(folder) else "transformers"
    inherited = _front_matter(source / CARD)
    given: dict[str, Any] = {
        key: inherited[key] for key in INHERITED if _is_short(inherited.get(key))
    }
    if HUB_ID.fullmatch(model) and not Path(model).exists():
        given |= {"base_model": model, "base_model_relation": step.hub_relation}
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=name.partition("/")[2],
            dataset_name=name.partition("/")[2],
            metric_type=metric.hub_type,
            metric_value=round(float(entry["metrics"][name]), 5),
            verified=False,
        )
        for metric, name in shown_metrics([entry])
        if metric.hub_type and name in entry["metrics"]
    ]
    return ModelCardData(
        library_name=library,
        pipeline_tag="text-generation",
        tags=["edgewright", step.kind, *([library] if is_artifact(folder) else [])],
        model_name=f"{_short(model).removeprefix('builtin:')}-{entry['name']}",
        eval_results=results or None,
        **given,
    )


def _front_matter(card: Path) -> dict[str, Any]:
    """The metadata of an existing card; empty if there is no card or its YAML is broken."""
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    found = FRONT_MATTER.match(text)
    try:
        _, data = parse_yaml(found[1][:YAML_BYTES], str(card), "") if found else (None, None)
    except UsageError:
        return {}  # another tool's card, which nothing here depends on
    return data if isinstance(data, dict) else {}


def _is_short(value: Any) -> bool:
    """Whether a value of another card is one short text, or a list of them, as the hub expects."""
    texts = value if isinstance(value, list) else [value]
    return all(isinstance(text, str) and plain(text) == text for text in texts)


def _rows(entry: Record, baseline: Record | None) -> ReportTable | None:
    """The measured metrics, beside those of the baseline."""
    sides = [entry]
    if baseline is not None and baseline is not entry:
        sides.append(baseline)
    columns = [
        ReportColumn("metric", numeric=False),
        ReportColumn(str(entry["name"])),
        *(ReportColumn("baseline") for _ in sides[1:]),
    ]
    rows = [
        [
            ReportCell(metric_title(metric, name)),
            *(ReportCell(metric_text(side, name, unit=True)) for side in sides),
        ]
        for metric, name in shown_metrics([entry])
        if name in entry["metrics"]
    ]
    return ReportTable(columns, rows) if rows else None
