"""Hashes of directories, and the bytes of the weights in them."""

from __future__ import annotations

from pathlib import Path

from edgewright.checkpoints.hashing import content_hash


def test_content_hash_sees_bytes_and_names(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_bytes(b"12")
    (tmp_path / "b").write_bytes(b"3")
    seen = [content_hash(tmp_path)]
    assert content_hash(tmp_path) == seen[0]
    (tmp_path / "sub" / "a").write_bytes(b"13")
    seen.append(content_hash(tmp_path))
    (tmp_path / "sub" / "a").rename(tmp_path / "sub" / "c")
    seen.append(content_hash(tmp_path))
    (tmp_path / "sub" / "c").rename(tmp_path / "c")
    seen.append(content_hash(tmp_path))
    (tmp_path / "empty").touch()
    seen.append(content_hash(tmp_path))
    assert len(set(seen)) == len(seen)
    assert content_hash(tmp_path, skip="empty") == seen[-2]
