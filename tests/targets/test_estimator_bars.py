"""The errors and bands of the estimator on the committed tables, which may not get worse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from edgewright.targets.roofline import FIT_FILE

published = pytest.importorskip(
    "edgewright.perf.published", reason="perf/ is not part of the wheel"
)
from edgewright.perf import estimator, fitting, speculative  # noqa: E402 - only where perf/ is

TABLES = Path(estimator.__file__).parent
FITTED = TABLES / "jetson_published.csv"
HELD_OUT = TABLES / "jetson_held_out.csv"


@pytest.fixture(scope="module")
def rows() -> list[Any]:
    return [row for row in published.read_table(FITTED) if isinstance(row, published.Row)]


@pytest.fixture(scope="module")
def fitted(rows: list[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The contents of fit.yaml, and the cross-validated errors."""
    document, crossed = fitting.fit_all(rows)
    return document, estimator.validate(rows, crossed)


def test_models_that_were_left_out_are_predicted(
    fitted: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    errors = fitted[1]
    assert errors["rows"] == 235
    assert errors["median_ape"]["leave_one_model_out"] <= 0.12
    assert errors["by_kind"]["speculative"]["leave_one_model_out"] <= 0.15
    assert errors["by_kind"]["batched"]["leave_one_model_out"] <= 0.15
    assert errors["by_device"]["jetson-agx-orin-32gb"]["leave_one_model_out"] <= 0.25
    assert errors["by_device"]["jetson-agx-orin-32gb"]["leave_one_device_out"] <= 0.25


def test_bands_contain_about_what_they_say(
    fitted: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    errors = fitted[1]
    assert 0.78 <= errors["band_coverage"]["leave_one_model_out"] <= 0.85
    assert errors["by_kind"]["speculative"]["inside"] >= 0.75
    assert errors["by_kind"]["batched"]["inside"] >= 0.75


def test_a_table_that_the_fit_has_not_seen_is_predicted() -> None:
    found = estimator.score(published.read_table(HELD_OUT))
    assert found["scored"] == found["rows"] == 44
    assert found["median_ape"] <= 0.12
    assert 0.78 <= found["band_coverage"] <= 0.85


def test_the_shipped_fit_is_that_of_the_committed_table(
    fitted: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    shipped = yaml.safe_load(FIT_FILE.read_text(encoding="utf-8"))
    assert set(shipped["engines"]) == set(fitted[0]["engines"])
    for name, engine in fitted[0]["engines"].items():
        assert shipped["engines"][name]["decode"] == pytest.approx(engine["decode"], rel=0.02), name
        known = shipped["engines"][name]["decode_band"]["known"]
        assert known == pytest.approx(engine["decode_band"]["known"], rel=0.02), name


def test_every_committed_row_names_its_source() -> None:
    for path in (FITTED, HELD_OUT):
        head, *lines = path.read_text(encoding="utf-8").splitlines()
        assert "source_url" in head
        assert all("http" in line or "public GitHub" in line for line in lines), path.name


def test_rounds_of_published_methods_are_those_of_their_documentation() -> None:
    eagle, mtp = speculative.METHODS["eagle"], speculative.METHODS["mtp"]
    assert (eagle.passes, eagle.width, eagle.checked) == (6, 10, 60)
    assert (mtp.passes, mtp.checked) == (3, 4)
    assert speculative.method_of("EAGLE3") == "eagle"
    assert speculative.method_of("with a draft of 0.6B") is None
    assert speculative.tokens_of("eagle", {"accept_rate": "4.22 (of all)"}) == 4.22
    assert speculative.tokens_of("mtp", {}) == mtp.tokens


def test_published_speedups_of_drafts_are_predicted(rows: list[Any]) -> None:
    # TensorRT-Edge-LLM 0.9 on AGX Orin, batch 1: EAGLE-3 1.82 (8B) and 1.30 (1.7B), MTP 1.20 (4B)
    # and 1.42 (9B); on Orin Nano EAGLE-3 1.10 (1.7B). At batch 8 EAGLE-3 of 8B loses: 0.48.
    fit = estimator.load_fit().engines["edge-llm"].kernels
    expected = {
        ("eagle", "Qwen3-8B", "jetson-agx-orin-64gb", 1): 1.82,
        ("eagle", "Qwen3-1.7B", "jetson-agx-orin-64gb", 1): 1.30,
        ("mtp", "Qwen3.5-4B", "jetson-agx-orin-64gb", 1): 1.20,
        ("mtp", "Qwen3.5-9B", "jetson-agx-orin-64gb", 1): 1.42,
        ("eagle", "Qwen3-1.7B", "jetson-orin-nano-8gb", 1): 1.10,
        ("eagle", "Qwen3-8B", "jetson-agx-orin-64gb", 8): 0.48,
    }
    seen = {}
    for row in rows:
        if row.speculation and "0.9.0" in row.name:
            plain = next(
                other
                for other in rows
                if "0.9.0" in other.name
                and other.speculation is None
                and (other.model, other.target, other.batch) == (row.model, row.target, row.batch)
            )
            key = (row.speculation.method, row.model, row.target, row.batch)
            seen[key] = plain.seconds(fit) / row.seconds(fit)
    for key, speedup in expected.items():
        assert seen[key] == pytest.approx(speedup, rel=0.2), key
