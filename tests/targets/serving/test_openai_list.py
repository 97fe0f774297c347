"""The list of tested calls in docs/serving.md is the list of numbered tests."""

from __future__ import annotations

import re
from pathlib import Path

from edgewright.docs.import_graph import ROOT


def test_each_listed_call_has_a_test_and_each_test_is_listed() -> None:
    rows = re.findall(r"^\| .+ \| (\d\d) \|$", (ROOT / "docs" / "serving.md").read_text(), re.M)
    files = Path(__file__).parent.glob("test_openai_*.py")
    tests = [
        one for file in files for one in re.findall(r"^def test_(\d\d)_", file.read_text(), re.M)
    ]
    assert len(rows) >= 30
    assert rows == sorted(tests)
