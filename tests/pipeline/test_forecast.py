"""`plan` of models by their published config.json, on every board, against hand counts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgewright.pipeline.forecast import plan_model
from edgewright.targets import load_target, target_names

CONFIGS = Path(__file__).parents[1] / "configs"
QWEN_3B = "qwen2.5-3b"
DEEPSEEK_7B = "deepseek-r1-distill-qwen-7b"
# Counted by hand: linear layers (q, o; k, v; gate, up, down), embedding, head, norms, biases.
KEYS_AND_VALUES = {QWEN_3B: 36 * 2 * 256 * 2048, DEEPSEEK_7B: 28 * 2 * 512 * 3584}
LINEARS = {
    QWEN_3B: 36 * (2 * 2048 * 2048 + 2 * 256 * 2048 + 3 * 11008 * 2048),
    DEEPSEEK_7B: 28 * (2 * 3584 * 3584 + 2 * 512 * 3584 + 3 * 18944 * 3584),
}
REST = {
    QWEN_3B: 151936 * 2048 + 36 * (2 * 2048 + 2048 + 2 * 256) + 2048,
    DEEPSEEK_7B: 2 * 152064 * 3584 + 28 * (2 * 3584 + 3584 + 2 * 512) + 3584,
}
TABLES = {QWEN_3B: 151936 * 2048, DEEPSEEK_7B: 2 * 152064 * 3584}
PARAMETERS = {QWEN_3B: 3_085_938_688, DEEPSEEK_7B: 7_615_616_512}  # of the model cards' safetensors
KV_A_TOKEN = {QWEN_3B: 2 * 36 * 2 * 128 * 2, DEEPSEEK_7B: 2 * 28 * 4 * 128 * 2}  # float16


@pytest.fixture
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    shutil.copy(CONFIGS / f"{request.param}.json", tmp_path / "config.json")
    return tmp_path


def rows_of(
    model: Path, target: str = "all", context: int = 2048
) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (row.get("target", target), row["precision"]): row
        for row in plan_model(str(model), target, context)
    }


@pytest.mark.parametrize(("model", "name"), [(n, n) for n in PARAMETERS], indirect=["model"])
def test_bytes_are_those_counted_by_hand(model: Path, name: str) -> None:
    rows = rows_of(model, "jetson-orin-nx-16gb", 4096)
    assert LINEARS[name] + REST[name] == PARAMETERS[name]
    # INT4 is a GGUF of `mixed`: 20 bytes for 32 weights (Q4_1), 34 for 32 of keys and values, and
    # of a table (Q8_0).
    tables, in_8_bits = TABLES[name], TABLES[name] + KEYS_AND_VALUES[name]
    in_4_bits = LINEARS[name] - KEYS_AND_VALUES[name]
    blocks = in_4_bits // 32 * 20 + in_8_bits // 32 * 34 + 2 * (REST[name] - tables)
    for precision, expected, error in (
        ("fp16", 2 * PARAMETERS[name], 0),
        ("int4", blocks, 0.002),
    ):
        row = rows["jetson-orin-nx-16gb", precision]
        assert row["parameters"] == PARAMETERS[name]
        assert row["weight_bytes"] == pytest.approx(expected, rel=error)
        assert row["kv_bytes"] == KV_A_TOKEN[name] * 4096


@pytest.mark.parametrize(
    ("model", "fitting"),
    [
        (
            QWEN_3B,
            {
                "jetson-orin-nano-8gb": {"int4"},
                "jetson-orin-nx-8gb": {"int4"},
                "jetson-orin-nano-4gb": set(),
                "jetson-orin-nx-16gb": {"fp16", "int8", "int4"},
                "jetson-agx-orin-64gb": {"fp16", "int8", "int4"},
            },
        ),
        (
            DEEPSEEK_7B,
            {
                "jetson-orin-nano-8gb": set(),
                "jetson-orin-nx-8gb": set(),
                "jetson-orin-nano-4gb": set(),
                "jetson-orin-nx-16gb": {"int8", "int4"},
                "jetson-agx-orin-32gb": {"fp16", "int8", "int4"},
            },
        ),
    ],
    indirect=["model"],
)
def test_what_fits_where(model: Path, fitting: dict[str, set[str]]) -> None:
    rows = rows_of(model)
    assert {target for target, _ in rows} == set(target_names())
    limit = json.loads((model / "config.json").read_text())["max_position_embeddings"]
    for target, precisions in fitting.items():
        assert {p for t, p in rows if t == target and rows[t, p]["fits"]} == precisions
    for (target, _), row in rows.items():
        assert row["fits"] == (row["longest_context"] >= 2048)
        assert row["longest_context"] <= limit
        labelled = {mode.name for mode in load_target(target).power_modes if mode.watts}
        assert set(row["tokens_per_joule"]) == labelled and all(
            value > 0 for value in row["tokens_per_joule"].values()
        )


@pytest.mark.parametrize("model", [DEEPSEEK_7B], indirect=True)
def test_a_plan_does_not_import_torch(model: Path) -> None:
    code = (
        "import sys, time; from edgewright.cli import app\n"
        f"try: app(['plan', {str(model)!r}, '--target', 'all', '--json'])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules; "
        "assert time.process_time() < 2, time.process_time()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["rows"]) == 3 * len(target_names())
