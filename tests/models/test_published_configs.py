"""Published models: their numbers of parameters, and that plans of them end in a way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgewright.checkpoints.config import read_architecture
from edgewright.models import FAMILIES, WRAPPERS
from edgewright.pipeline.forecast import plan_model
from edgewright.targets import list_targets

PUBLISHED: dict[str, Any] = yaml.safe_load(
    (Path(__file__).parent / "published_configs.yaml").read_text()
)


def directory(folder: Path, name: str) -> Path:
    """A model directory with the published config.json and no weights."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(PUBLISHED[name]["config"]))
    return folder


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_the_number_of_parameters_is_the_published_one(name: str, tmp_path: Path) -> None:
    entry = PUBLISHED[name]
    count = read_architecture(directory(tmp_path, name)).parameters + entry.get("beside", 0)
    published = entry["published"]
    if isinstance(published, int):
        assert count == published
        return
    number = published.removesuffix("B")
    unit = 10.0 ** -len(number.partition(".")[2])
    assert abs(count / 1e9 - float(number)) < unit, count  # cards round, or cut the digits off


def test_every_family_has_a_published_model() -> None:
    configs = [entry["config"] for entry in PUBLISHED.values()]
    kinds = {config["model_type"] for config in configs}
    inner = {config["text_config"]["model_type"] for config in configs if "text_config" in config}
    # Ministral's own type is that of new files; the published one says `mistral`.
    assert FAMILIES.keys() | WRAPPERS.keys() == kinds | inner & FAMILIES.keys() | {"ministral"}
    assert len(PUBLISHED) >= 40


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_plan_for_all_targets_names_what_works_instead(name: str, tmp_path: Path) -> None:
    rows = plan_model(str(directory(tmp_path, name)), "all")
    assert {row["target"] for row in rows} == {target.name for target in list_targets()}
    for row in rows:
        assert row["weight_bytes"] > 0
        for reason in (*row["refused"], *row["violations"]):
            assert len(reason.partition("(nearest: ")[2]) > 5, reason
