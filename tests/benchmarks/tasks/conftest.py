"""The fixture `confiner`: every confinement, one after the other.

Bubblewrap is for `make sandbox-test`, which installs it. The others need only the kernel.
"""

from __future__ import annotations

import pytest

from edgewright.benchmarks.tasks.sandbox import Confiner, confiners

KINDS = [
    pytest.param("bubblewrap", marks=pytest.mark.bubblewrap),
    "namespaces",
    "landlock",
]


@pytest.fixture(params=KINDS)
def confiner(request: pytest.FixtureRequest) -> Confiner:
    found = {one.kind: one for one in confiners()}
    if request.param != "bubblewrap" and request.param not in found:
        pytest.skip(f"this kernel does not give this user what {request.param} needs")
    return found[request.param]
