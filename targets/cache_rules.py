"""The rules about a KV cache in 8 bits."""

from __future__ import annotations

from collections.abc import Iterator

from ..models import FORMATS
from .artifact_plan import ArtifactPlan
from .profile import version_key
from .violation import Violation

__all__ = ["kv_cache"]

TYPED_SINCE = "10.0"
"""The first TensorRT with strongly typed networks, where an INT8 input needs no dynamic range."""


def kv_cache(plan: ArtifactPlan) -> Iterator[Violation]:
    """A cache in 8 bits that the format, or the TensorRT of a release, cannot have."""
    if plan.workload.kv_cache == "float":
        return
    if not plan.format.int8_cache:
        formats = [name for name, format in FORMATS.items() if format.int8_cache]
        yield Violation(
            "kv-cache",
            f"edgewright writes no {plan.format.name} artifact with a KV cache in 8 bits",
            f"--kv-cache float, or --format {' or '.join(formats)}",
        )
    elif plan.tensorrt:
        old = [r for r in plan.releases if version_key(r.tensorrt) < version_key(TYPED_SINCE)]
        message = f"a KV cache in 8 bits needs TensorRT {TYPED_SINCE} or later"
        yield from plan.limited_to_newer(old, "kv-cache", message, "--kv-cache float")
