"""Which export format to recommend for a device, and what to do to get it.

`plan`, `init` and the next command after a run all ask here.
"""

from __future__ import annotations

import shlex
from dataclasses import replace

from ..compress.quantize.options import QuantizeOptions
from ..compress.quantize.step import quantized_state
from ..errors import EdgewrightError
from ..models import FORMATS, PORTABLE, expressible
from ..models.footprint import FLOAT_BYTES
from ..models.kv_cache import KvCache
from ..steps.state import State
from ..targets import ArtifactSpec, Target, Workload, check

__all__ = [
    "as_artifact",
    "export_command",
    "prepared",
    "prepared_by",
    "recommended_format",
    "workload_of",
]

LONGEST_PROMPT = 512
"""Tokens of the prompt that predictions assume, unless the context is shorter."""
INT8_METHOD = "smoothquant"
PLAIN_INT4_METHOD = "gptq"
"""Where the widths of a model do not suit the method that a format prefers."""
OBSTACLES = ("build-memory",)
"""Rules that only warn, but of things without which nobody gets the model to run."""


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


def recommended_format(
    state: State,
    precision: str,
    target: Target | None,
    context: int = 2048,
    batch: int = 1,
    kv_cache: KvCache = "float",
) -> str:
    """The format that runs on most software releases of a device.

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
    if target is None:
        return PORTABLE
    possible = [
        name
        for name in target.platform.recommended
        if precision in FORMATS[name].precisions
        and (kv_cache == "float" or FORMATS[name].int8_cache)
        and not expressible(state.architecture, name)
    ]

    def suits(name: str) -> tuple[int, int, int, int]:
        """Releases that run it without a warning, releases that run it, and how near it is else."""
        exported = as_artifact(state, name, precision, kv_cache)
        workload = workload_of(exported, context, batch)
        spec = ArtifactSpec(name, sym=exported.sym, act_order_g_idx=exported.g_idx)
        found = check(target, exported.architecture, workload, spec)
        runs = {release.name for release in target.releases()} or {target.name}
        runs -= {release for broken in found for release in broken.releases}
        refused = [one for one in found if one.severity == "refuse" and not one.releases]
        if refused or not runs:
            return 0, 0, -sum(one.rule != "memory" for one in refused), -exported.weight_bytes
        warned = any(one.rule in OBSTACLES for one in found)
        return 0 if warned else len(runs), len(runs), 0, 0

    # `max` takes the first of equals. Nothing is possible: the plan then says why.
    return max(possible, key=suits, default=PORTABLE)


def prepared_by(state: State, precision: str, format: str) -> str | None:
    """The `quantize --method` that an export needs before it; None: it takes the weights as is."""
    if state.precision not in FLOAT_BYTES or precision in FORMATS[format].rounds:
        return None
    if precision == "int8":
        return INT8_METHOD
    return _int4(state, format)[0] if precision == "int4" else None


def prepared(state: State, precision: str, format: str) -> State:
    """The checkpoint that an export takes: quantized by the method of `prepared_by`."""
    if not prepared_by(state, precision, format):
        return state
    return _int4(state, format)[1] if precision == "int4" else replace(state, precision=precision)


def as_artifact(state: State, format: str, precision: str, kv_cache: KvCache = "float") -> State:
    """What a checkpoint becomes by `prepared_by` and the export."""
    return prepared(state, precision, format).exported(format, precision, kv_cache)


def _int4(state: State, format: str) -> tuple[str, State]:
    """How a model in floating point is quantized to 4 bits for a format, and the result."""
    method = FORMATS[format].int4_method
    try:
        return method, quantized_state(QuantizeOptions.model_validate({"method": method}), state)
    except EdgewrightError:  # the rules of the device say what is wrong with its sizes
        return PLAIN_INT4_METHOD, replace(state, precision="int4")


def export_command(model: str, format: str, precision: str, kv_cache: KvCache, out: str) -> str:
    """What to type to export a model."""
    named = "" if format == PORTABLE else f"--format {format} "
    cache = "" if kv_cache == "float" else f"--kv-cache {kv_cache} "
    return (
        f"edgewright export {shlex.quote(model)} {named}--precision {precision} {cache}"
        f"--out {shlex.quote(out)}"
    )
