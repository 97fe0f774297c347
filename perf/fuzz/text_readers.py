"""Recipes, policies, target profiles, ledgers, measurements, and what is typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from ...benchmarks.gate.policy import load_policy
from ...benchmarks.ledger_files import read_ledger
from ...benchmarks.measurement_files import load_measurement
from ...pipeline.ledger import Ledger
from ...pipeline.recipe_file import ROOT, load_recipe
from ...pipeline.sweep_options import parse_vary
from ...targets import load_target
from .changes import changed_bytes, changed_json, changed_text

__all__ = ["text_readers"]

POLICY = {
    "confidence": 0.9,
    "resamples": 500,
    "limits": {"accuracy/reasoning": {"max_drop": 0.01}, "perplexity/text": {"max_ratio": 1.05}},
}
STEP = {
    "name": "quantize",
    "kind": "quantize",
    "config": {"bits": 4},
    "fingerprint": "ab",
    "depends_on": {"source": "cd"},
    "output": "quantize",
    "seconds": 1.5,
    "metrics": {"perplexity/text": 8.5, "accuracy/qa": 0.5},
    "notes": ["a note"],
    "details": {},
    "context": {"perplexity/text": {"rows": "ef", "dtype": "float32"}},
    "samples": "samples/quantize.json",
}
LEDGER = {"schema": 1, "edgewright": "1.0", "steps": [STEP], "recipe": {}, "environment": {}}
MEASUREMENT = {
    "name": "int4",
    "metrics": {"perplexity/text": 8.5, "accuracy/qa": 0.5},
    "context": {"perplexity/text": {"rows": "ef"}},
    "samples": {"accuracy/qa": {"correct": "0101"}, "perplexity/text": {"nll": [1], "tokens": [2]}},
}
ALIASES = b"a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + b"".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n".encode()
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
"""Half a kilobyte that stands for 430 million values."""
DEEP_YAML = (b"- " * 150, b"[" * 200)
YAML_BOMBS = (ALIASES, b"a: &a [*a]", b"a: 2020-99-99", b"a: !!bool x", b"a: 1\na: 2", *DEEP_YAML)


def _yaml_files(documents: list[Any], name: str) -> st.SearchStrategy[dict[str, bytes]]:
    """YAML files that were changed in value or in text."""
    texts = st.sampled_from([yaml.safe_dump(one, sort_keys=False).encode() for one in documents])
    changed = changed_json(documents).map(json.dumps).map(str.encode)
    bombs = st.sampled_from(YAML_BOMBS)
    files = st.one_of(changed, changed, changed_bytes(texts), bombs)
    return files.map(lambda content: {name: content})


def _file(documents: list[Any], name: str) -> st.SearchStrategy[dict[str, bytes]]:
    return changed_text(documents).map(lambda content: {name: content})


def _ledger(folder: Path) -> None:
    read_ledger(folder / "ledger.json")
    found = Ledger.load(folder)
    found.step("quantize")


def _typed(folder: Path) -> None:
    """An override of a recipe and values to vary, as they are typed."""
    text = (folder / "typed").read_bytes().decode(errors="replace")
    parse_vary([text])
    load_recipe(ROOT / "recipes" / "demo.yaml", [text])


def text_readers() -> list[tuple[Any, ...]]:
    """The arguments of `FileReader` for each kind."""
    recipes = [
        yaml.safe_load(file.read_text()) for file in sorted((ROOT / "recipes").glob("*.yaml"))
    ]
    profiles = [
        yaml.safe_load(file.read_text())
        for file in sorted((ROOT / "targets" / "profiles").glob("*.yaml"))
    ]
    typed = [b"steps.prune.heads=0.5", b"model=x", b"gate.limits.perplexity/text.max_ratio=1.2"]
    settings = changed_bytes(st.sampled_from(typed)).map(lambda text: {"typed": text})
    return [
        ("recipes", _yaml_files(recipes, "r.yaml"), lambda f: load_recipe(f / "r.yaml"), 4),
        ("--set and --vary", settings, _typed, 2),
        ("policies", _yaml_files([POLICY], "p.yaml"), lambda f: load_policy(f / "p.yaml"), 6),
        (
            "target profiles",
            _yaml_files(profiles, "t.yaml"),
            lambda f: load_target(str(f / "t.yaml")),
            4,
        ),
        ("ledgers", _file([LEDGER], "ledger.json"), _ledger, 10),
        (
            "measurements",
            _file([MEASUREMENT], "m.json"),
            lambda f: load_measurement(str(f / "m.json")),
            10,
        ),
        (
            "steps of ledgers",
            _file([LEDGER], "ledger.json"),
            lambda f: load_measurement(f"{f}:quantize"),
            4,
        ),
    ]
