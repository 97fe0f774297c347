"""The model card of an output directory, as Hugging Face reads it: README.md with metadata, measured numbers, and how it was made."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from ...checkpoints.files import CARD
from ..measurement_files import write_text
from .cells import Cell, Column, Table
from .pages import markdown_page
from .report import PLAIN, TASKED, Record, metric_text, names_of

__all__ = ["write_card"]

FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*$", re.DOTALL | re.MULTILINE)
INHERITED = ("license", "license_name", "license_link", "language")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
RELATIONS = {
    "prune": "finetune",
    "distill": "finetune",
    "iterate": "finetune",
    "quantize": "quantized",
    "export": "quantized",
}
"""How the hub calls what a step does to the model; it has no word for pruning."""
SENTENCES = {
    "prune": "whole heads, neurons or layers were cut out",
    "distill": "taught by another model",
    "iterate": "cut and taught in rounds",
    "quantize": "its weights are in few bits",
    "export": "an exported graph",
}
METRIC_TYPES = {"accuracy": "exact_match", "perplexity": "perplexity"}


def write_card(
    folder: Path,
    entry: Record,
    model: str,
    source: Path,
    command: str,
    baseline: Record | None = None,
) -> Path:
    """Write the card of what a step made.

    Args:
        folder: the directory.
        entry: the step's part of the ledger; without metrics where nothing was measured.
        model: the model that it all began with, by the name that the user gave.
        source: that model's directory, whose card says under which license.
        command: what was typed.
        baseline: the entry of the model that it all began with.

    Returns:
        The card's path.
    """
    metadata = _metadata(folder, entry, model, source)
    conditions = ", ".join(
        f"{key} {entry['context'][key]}"
        for key in ("backend", "device", "dtype", "threads")
        if key in entry["context"]
    )
    kind = str(entry["kind"])
    told = {key: value for key, value in entry["config"].items() if value not in (None, "", [], {})}
    text = markdown_page(
        "card.md",
        name=metadata["model-index"][0]["name"] if "model-index" in metadata else folder.name,
        sentence=f"{_short(model)}: {SENTENCES.get(kind, kind)}, by edgewright.",
        rows=_rows(entry, baseline),
        conditions=conditions,
        notes=[f"step: {kind}", *map(str, entry["notes"])],
        options=yaml.safe_dump({kind: told}, sort_keys=False, allow_unicode=True),
        command=command,
    )
    head = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    write_text(folder / CARD, f"---\n{head}---\n{text.lstrip()}")
    return folder / CARD


def _short(model: str) -> str:
    """A model's name without where it lies on this machine."""
    return model if HUB_ID.fullmatch(model) or model.startswith("builtin:") else Path(model).name


def _metadata(folder: Path, entry: Record, model: str, source: Path) -> dict[str, Any]:
    exported = (folder / "model.onnx").is_file()
    given = {key: value for key, value in _front_matter(source / CARD).items() if key in INHERITED}
    metadata: dict[str, Any] = {
        **given,
        "library_name": "onnx" if exported else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["edgewright", str(entry["kind"]), *(["onnx"] if exported else [])],
    }
    if HUB_ID.fullmatch(model) and not Path(model).exists():
        metadata |= {
            "base_model": model,
            "base_model_relation": RELATIONS.get(str(entry["kind"]), "finetune"),
        }
    results = [
        _result(name, float(entry["metrics"][name]))
        for kind in METRIC_TYPES
        for name in names_of([entry], kind)
    ]
    if results:
        metadata["model-index"] = [
            {
                "name": f"{_short(model).removeprefix('builtin:')}-{entry['name']}",
                "results": results,
            }
        ]
    return metadata


def _result(name: str, value: float) -> dict[str, Any]:
    """One entry of the model index, in the form that `huggingface_hub` reads."""
    kind, _, label = name.partition("/")
    dataset = {"type": label, "name": label}
    metric = {"type": METRIC_TYPES[kind], "value": round(value, 5), "verified": False}
    return {"task": {"type": "text-generation"}, "dataset": dataset, "metrics": [metric]}


def _front_matter(card: Path) -> dict[str, Any]:
    found = (
        FRONT_MATTER.match(card.read_text(encoding="utf-8", errors="replace"))
        if card.is_file()
        else None
    )
    try:
        data = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        return {}  # another tool's card, which nothing here depends on
    return data if isinstance(data, dict) else {}


def _rows(entry: Record, baseline: Record | None) -> Table | None:
    names = [
        *(name for kind in TASKED for name in names_of([entry], kind)),
        *(name for name in PLAIN if name in entry["metrics"]),
    ]
    sides = [entry, *([baseline] if baseline is not None and baseline is not entry else [])]
    columns = [
        Column("metric", numeric=False),
        Column(str(entry["name"])),
        *(Column("baseline") for _ in sides[1:]),
    ]
    rows = [
        [Cell(_title(name)), *(Cell(metric_text(side, name, unit=True)) for side in sides)]
        for name in names
    ]
    return Table(columns, rows) if rows else None


def _title(name: str) -> str:
    kind, _, label = name.partition("/")
    return PLAIN.get(name) or f"{TASKED[kind].removesuffix(' ± stderr')}, {label}"
