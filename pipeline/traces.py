"""Makes reasoning traces for a recipe or for the verb, or reuses a valid file of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import __version__
from ..benchmarks.memory import answering_bytes
from ..benchmarks.traces.options import TracesOptions
from ..benchmarks.traces.traces import WORK, make_traces
from ..checkpoints.config import model_path, resolve
from ..checkpoints.hashing import content_hash, file_hash
from ..checkpoints.loading import pick_device
from ..checkpoints.outputs import RECORD, RECORD_MARKS, Output, beside, check_own
from ..checkpoints.sealed import Damaged, read_sealed, write_sealed
from ..console import console
from ..errors import EdgewrightError, UsageError
from ..steps.memory_check import require_memory
from ..steps.options import TRACES
from ..steps.workspace import remove_workspace
from .fingerprint import MEASURE_CODE, code_version, data_hashes, fingerprint
from .processes import require_one_process
from .recipe import Recipe
from .run_files import TRACES_FILE

__all__ = ["make_recipe_traces", "run_traces"]


def make_recipe_traces(recipe: Recipe, out: Path) -> tuple[Recipe, dict[str, Any] | None]:
    """Make the traces that a recipe asks for.

    Args:
        recipe: the recipe.
        out: directory of its run.

    Returns:
        The recipe with the file in place of `traces`, and the report; the recipe itself and None
        if it asks for no traces.

    Raises:
        EdgewrightError: no chain was kept.
    """
    if recipe.traces is None:
        return recipe, None
    file = out / TRACES_FILE
    console.print(f"[bold]{TRACES}[/] of {recipe.traces.prompts}")
    check = recipe.memory_check
    report = run_traces(
        recipe.traces, recipe.model, file, recipe.seed, recipe.device, memory_check=check
    )
    if report["reused"]:
        state = "reused"
    else:
        counts = f"kept {report['kept']} of {report['chains']} chains"
        state = f"{counts}, pass@1 {report['pass@1']:.3f}"
    console.print(f"  {state}", highlight=False)
    if not report["kept"]:
        raise EdgewrightError(
            f"{file}: none of {report['chains']} chains was kept: {report['rejected']}",
            "loosen the conditions in `traces`",
        )
    return recipe.with_traces(f"jsonl:{file}"), report


def run_traces(
    options: TracesOptions,
    model: str,
    out: Path,
    seed: int,
    device: str,
    fresh: bool = False,
    memory_check: bool = True,
) -> dict[str, Any]:
    """Let a model write traces into the file `out`, or reuse the file if it holds them already.

    Args:
        options: questions, sampling, and which chains to keep.
        model: directory, hub id or built-in model that writes them.
        out: the JSONL file to write.
        seed: random seed.
        device: auto, cpu or cuda.
        fresh: write the file again in any case.
        memory_check: refuse what is predicted not to fit into memory.

    Returns:
        The report, which is also written to `<out>.report.json`.

    Raises:
        UsageError: `out` exists and edgewright did not write it, or somebody changed it since.
    """
    require_one_process("traces are written")
    source = resolve(model_path(model))
    record = _own_record(out)
    fields = _dependencies(options, {model: content_hash(source)}, seed, pick_device(device))
    old = {} if fresh else _recorded(record)
    before = _replaced(out, old)
    if old.get("fingerprint") == fingerprint(fields) and old["sha256"] == before:
        remove_workspace(out, WORK)
        return {**old["report"], "reused": True}
    if memory_check:
        _check_memory(options, source, fields["device"])
    out.parent.mkdir(parents=True, exist_ok=True)
    origin = {"edgewright": __version__, "fingerprint": fingerprint(fields), **fields}

    def announce(sha256: str, report: dict[str, Any], replaces: str | None = before) -> None:
        """Record what will be written, so that a file without a record is always another's."""
        write_sealed(record, {**origin, "sha256": sha256, "replaces": replaces, "report": report})

    teacher = fields["inputs"][model]
    where = fields["device"]
    report = make_traces(options, source, teacher, out, seed, where, fields, announce, fresh)
    if before:  # it is replaced, so nobody may find it again
        announce(file_hash(out), report, replaces=None)
    return {**report, "reused": False}


def _own_record(out: Path) -> Path:
    """The record of traces; both files are edgewright's own, if they are there."""
    record = beside(out, RECORD)
    check_own([Output("--out", out, "traces"), Output("--out", record, "record", RECORD_MARKS)])
    return record


def _replaced(out: Path, old: dict[str, Any]) -> str | None:
    """The hash of the traces that will be replaced; None if there are none.

    Raises:
        UsageError: somebody has changed them, which may be work of hours: the content is neither
            the one that was written, nor the one before it.
    """
    content = file_hash(out) if out.is_file() else None
    if old and content and content not in (old["sha256"], old.get("replaces")):
        raise UsageError(
            f"{out}: was changed since edgewright wrote it",
            "choose another --out, or give --fresh to replace the file",
        )
    return content


def _recorded(record: Path) -> dict[str, Any]:
    """What an earlier run recorded of its traces; empty if it cannot be relied on."""
    try:
        return read_sealed(record, "make the traces again with --fresh") if record.exists() else {}
    except Damaged as error:
        console.print(f"  made again: {error}", highlight=False, markup=False)
        return {}


def _dependencies(
    options: TracesOptions, inputs: dict[str, str], seed: int, device: str
) -> dict[str, Any]:
    """Everything that the traces depend on, by field."""
    return {
        "config": options.model_dump(mode="json"),
        "inputs": inputs,
        "data": data_hashes([options.prompts]),
        "seed": seed,
        "device": device,
        "code": code_version(MEASURE_CODE),
    }


def _check_memory(options: TracesOptions, source: Path, device: str) -> None:
    """Refuse a teacher that would not fit into memory with the chains that it writes."""
    needed = answering_bytes(source, options.max_new_tokens, options.limit * options.chains)
    require_memory(f"{source.name} as a teacher", needed, device=device)
