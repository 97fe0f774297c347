"""A bundle's manifest is checked on the device: its id is the hash of everything else in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from file_damage import DAMAGES, flip, flips

from edgewright.errors import EdgewrightError
from edgewright.targets.device import engine as engine_module
from edgewright.targets.device.engine import build
from edgewright.targets.device.manifest import MANIFEST, identity, read_manifest


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A directory with a manifest as `make_bundle` writes it."""
    content: dict[str, Any] = {
        "artifact": "tiny",
        "eos_ids": [0],
        "tie": 0.02,
        "engine": {"layers": 2, "context": 128},
        "files": {"model/model.onnx": {"size": 3, "sha256": "a" * 64}},
    }
    manifest = {**content, "id": identity(content)}
    (tmp_path / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    return tmp_path


def test_a_flipped_bit_in_a_manifest_is_noticed_or_changes_nothing(bundle: Path) -> None:
    file = bundle / MANIFEST
    expected = read_manifest(bundle)
    good = file.read_bytes()
    for bit in flips(file, 400):
        flip(file, bit)
        try:
            assert read_manifest(bundle) == expected, f"bit {bit}"
        except EdgewrightError as error:
            assert str(file) in str(error)
            assert "deploy the bundle again" in error.hint
        file.write_bytes(good)


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_of_a_manifest_is_one_message(damage: str, bundle: Path) -> None:
    DAMAGES[damage](bundle / MANIFEST)
    with pytest.raises(EdgewrightError, match=r"bundle\.json: damaged"):
        read_manifest(bundle)


@pytest.mark.parametrize("name", ["built-with.json", "model.engine"])
def test_a_damaged_engine_is_built_again(
    name: str, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report: dict[str, Any] = {"tensorrt": "10.3", "board": "nano", "packages": {}, "memory": {}}
    monkeypatch.setattr(engine_module, "probe", lambda _: report)
    monkeypatch.setattr(
        engine_module, "_build_to", lambda partial, *_: partial.write_bytes(b"an engine")
    )
    assert [build(bundle)["reused"] for _ in range(2)] == [False, True]
    file = bundle / "engine" / name
    flip(file, 8 * (file.stat().st_size - 3) + 1)
    assert [build(bundle)["reused"] for _ in range(2)] == [False, True]
    file.write_bytes(b"[")
    assert [build(bundle)["reused"] for _ in range(2)] == [False, True]
