"""Sealed files: every flipped bit and every other damage is noticed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from file_damage import DAMAGES, flip, flips

from edgewright.checkpoints.hashing import PROVENANCE, read_provenance, write_provenance
from edgewright.checkpoints.sealed import (
    CHECK,
    DIGEST_BYTES,
    Damaged,
    fast_file_digest,
    intact,
    open_line,
    open_sealed,
    read_sealed,
    seal,
    seal_file,
    seal_line,
    write_sealed,
)

VALUE: dict[str, Any] = {
    "name": "int4",
    "figures": {"10": 0.1, "9": -3, "nan": float("nan")},
    "notes": ["späť", "\ud800", None, True],
}
HINT = "make it again"


def same(one: Any, other: Any) -> bool:
    """Equality that holds for NaN too."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def test_a_sealed_object_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    write_sealed(file, VALUE)
    assert same(read_sealed(file, HINT), VALUE)
    assert intact(json.loads(file.read_text()))
    assert same(seal(seal(VALUE)), seal(VALUE)), "a seal is not part of what is sealed"
    write_sealed(file, {10: "a", 9: ("b",)})  # keys and tuples as JSON holds them
    assert read_sealed(file, HINT) == {"10": "a", "9": ["b"]}


def test_every_flipped_bit_of_an_object_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    write_sealed(file, VALUE)
    good = file.read_bytes()
    noticed = 0
    for bit in range(8 * len(good)):
        flip(file, bit)
        try:
            assert same(read_sealed(file, HINT), VALUE), f"bit {bit}"
        except Damaged as error:
            noticed += 1
            assert str(file) in str(error)
            assert error.hint == HINT
        file.write_bytes(good)
    assert noticed > 0.9 * 8 * len(good)


def test_every_flipped_bit_of_a_line_is_noticed_or_changes_nothing() -> None:
    line = seal_line(VALUE | {"notes": "späť"}).encode()
    value = open_line(line)
    assert same(value, VALUE | {"notes": "späť"})
    for bit in range(8 * len(line)):
        broken = bytearray(line)
        broken[bit // 8] ^= 1 << bit % 8
        found = open_line(bytes(broken))
        assert found is None or same(found, value), f"bit {bit}"


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_of_an_object_is_one_message(damage: str, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    write_sealed(file, VALUE)
    DAMAGES[damage](file)
    with pytest.raises(Damaged, match=r"x\.json: damaged: ") as caught:
        read_sealed(file, HINT)
    assert len(str(caught.value)) < 500


def test_an_edited_value_is_noticed_and_an_older_file_is_known(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text(json.dumps(seal({"size": 5}) | {"size": 1}))
    for older in (False, True):
        with pytest.raises(Damaged, match="not what edgewright wrote"):
            read_sealed(file, HINT, older=older)
    file.write_text('{"size": 5}')
    assert read_sealed(file, HINT, older=True) == {"size": 5}
    with pytest.raises(Damaged):
        read_sealed(file, HINT)


def test_binary_data_are_sealed_by_the_digest_before_them(tmp_path: Path) -> None:
    file = tmp_path / "states.bin"
    data = bytes(range(256)) * 20
    file.write_bytes(bytes(DIGEST_BYTES) + data)
    before = fast_file_digest(file)
    seal_file(file)
    assert fast_file_digest(file) != before
    with open_sealed(file, HINT) as handle:
        assert handle.read() == data
    good = file.read_bytes()
    for bit in flips(file, 200):
        flip(file, bit)
        with pytest.raises(Damaged, match=r"states\.bin"), open_sealed(file, HINT):
            pass
        file.write_bytes(good)
    for damage in DAMAGES.values():
        damage(file)
        with pytest.raises(Damaged, match=r"states\.bin"), open_sealed(file, HINT):
            pass
        if file.is_dir():
            (file / "inside").rmdir()
            file.rmdir()


def test_provenance_has_a_checksum_and_names_what_it_lacks(tmp_path: Path) -> None:
    assert read_provenance(tmp_path) == {}
    write_provenance(tmp_path, {"kind": "artifact", "precision": "int4"})
    assert CHECK in json.loads((tmp_path / PROVENANCE).read_text())
    assert read_provenance(tmp_path, ("precision",)) == {"kind": "artifact", "precision": "int4"}
    with pytest.raises(Damaged, match="it has no `opset`") as caught:
        read_provenance(tmp_path, ("precision", "opset"))
    assert "--fresh" in caught.value.hint
    (tmp_path / PROVENANCE).write_text('{"precision": "int8"}')
    assert read_provenance(tmp_path) == {"precision": "int8"}, "of an older edgewright"
    with pytest.raises(Damaged):
        read_provenance(tmp_path, older=False)
