"""The page of families says what the files of families say."""

from __future__ import annotations

import pytest

from edgewright.models import FAMILIES


def test_the_page_is_that_of_the_families() -> None:
    pages = pytest.importorskip("edgewright.docs.write_families", reason="not in the wheel")
    written = pages.FILE.read_text(encoding="utf-8")
    assert written == pages.page(), "run: python -m edgewright.docs.write_families"
    assert all(f"| `{name}` |" in written for name in FAMILIES)
