"""Which export format to recommend for a device, and what to do to get it.

`plan`, `init` and the next command after a run all ask here.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..compress.quantize.options import QuantizeOptions
from ..compress.quantize.step import quantized_state
from ..errors import Refused
from ..models import FORMATS, PORTABLE, expressible
from ..models.footprint import FLOAT_BYTES
from ..models.kv_cache import KvCache
from ..steps.state import State
from ..targets import ArtifactSpec, Target, Workload, check

__all__ = [
    "Route",
    "export_command",
    "recommended_route",
    "workload_of",
]

LONGEST_PROMPT = 512
"""Tokens of the prompt that predictions assume, unless the context is shorter."""
INT8_METHOD = "smoothquant"
SMALL_INT4_METHOD = FORMATS[PORTABLE].int4_method
"""For models that the method that a format prefers does not suit, or makes too large."""
OBSTACLES = ("build-memory",)
"""Rules that only warn, but of things without which nobody gets the model to run."""


@dataclass(frozen=True)
class Route:
    """How a checkpoint gets onto a device.

    Attributes:
        format: of the export.
        method: of the `quantize` before it; None: the weights are exported as they are.
        checkpoint: what is exported.
        artifact: what the export makes.
    """

    format: str
    method: str | None
    checkpoint: State
    artifact: State


def workload_of(state: State, context: int, batch: int) -> Workload:
    """How the model of a state is stored and used on a target, within the positions it has."""
    context = min(context, state.architecture.max_positions or context)
    return Workload(
        state.precision,
        context=context,
        prompt=min(context, LONGEST_PROMPT),
        batch=batch,
        group_size=state.group_size,
        extra_bytes=state.extra_bytes,
        table_bytes=state.table_bytes,
        kv_cache=state.kv_cache,
        whole_cache=bool(state.format) and FORMATS[state.format].is_graph,
    )


def recommended_route(
    state: State,
    precision: str,
    target: Target | None,
    context: int = 2048,
    batch: int = 1,
    kv_cache: KvCache = "float",
) -> Route:
    """The way to the format that runs on most software releases of a device.

    Of several, the one that its profile recommends first; where none runs, the one that lacks
    nothing but memory, and least of it.

    Args:
        state: a checkpoint.
        precision: of the artifact.
        target: the device; None: the portable format.
        context: tokens of KV cache on the device.
        batch: sequences at a time on the device.
        kv_cache: how the artifact caches keys and values.
    """
    portable = _routes(state, precision, PORTABLE, kv_cache)[0]
    if target is None:
        return portable
    possible = [
        route
        for name in target.platform.recommended
        if precision in FORMATS[name].precisions
        and (kv_cache == "float" or FORMATS[name].int8_cache)
        and not expressible(state.architecture, name)
        for route in _routes(state, precision, name, kv_cache)
    ]

    def suits(route: Route) -> tuple[int, int, int, int]:
        """Releases that run it without a warning, releases that run it, and how near it is else."""
        made = route.artifact
        spec = ArtifactSpec(route.format, sym=made.sym, act_order_g_idx=made.g_idx)
        found = check(target, made.architecture, workload_of(made, context, batch), spec)
        runs = {release.name for release in target.releases()} or {target.name}
        runs -= {release for broken in found for release in broken.releases}
        refused = [one for one in found if one.severity == "refuse" and not one.releases]
        if refused or not runs:
            return 0, 0, -sum(one.rule != "memory" for one in refused), -made.weight_bytes
        warned = any(one.rule in OBSTACLES for one in found)
        return 0 if warned else len(runs), len(runs), 0, 0

    # `max` takes the first of equals. Nothing is possible: the plan then says why.
    return max(possible, key=suits, default=portable)


def _routes(state: State, precision: str, format: str, kv_cache: KvCache) -> list[Route]:
    """The ways to a format, at least one; what keeps most of the model comes first."""
    return [
        Route(format, method, made, made.exported(format, precision, kv_cache))
        for method, made in _checkpoints(state, precision, format)
    ]


def _checkpoints(state: State, precision: str, format: str) -> Iterator[tuple[str | None, State]]:
    """What can be exported in a precision, and the `quantize --method` that makes it."""
    packed = state.precision not in FLOAT_BYTES
    if packed or precision in FORMATS[format].rounds or precision not in ("int8", "int4"):
        yield None, state
        return
    plain = replace(state, precision=precision)
    if precision == "int8":
        yield INT8_METHOD, plain
        return
    best = FORMATS[format].int4_method
    if best != SMALL_INT4_METHOD:
        # For sizes that it refuses there is the other one, whose sizes the device's rules judge.
        with contextlib.suppress(Refused):
            options = QuantizeOptions.model_validate({"method": best})
            yield best, quantized_state(options, state)
    yield SMALL_INT4_METHOD, plain


def export_command(model: str, format: str, precision: str, kv_cache: KvCache, out: str) -> str:
    """What to type to export a model."""
    named = "" if format == PORTABLE else f"--format {format} "
    cache = "" if kv_cache == "float" else f"--kv-cache {kv_cache} "
    return (
        f"edgewright export {shlex.quote(model)} {named}--precision {precision} {cache}"
        f"--out {shlex.quote(out)}"
    )
