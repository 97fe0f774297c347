r"""Time the answers to many prompts: continuous batching, an older version, and one by one.

    python -m edgewright.perf.generation builtin:tiny-reasoner --problems 64 --one-by-one
    python -m edgewright.perf.generation QWEN --code HUMANEVAL.jsonl --max-new-tokens 512 \
        [--old CHECKOUT] [--artifact DIR ...]

Every side is a process of its own, so that its peak memory is known. The sides take turns, so that
the machine's changes hit all of them. The first side is what the others are compared with.
`--old` is a checkout of an earlier version of this repository, such as a git worktree.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from ..benchmarks.tasks.programs import read_exercises
from ..benchmarks.tasks.questions import frame
from ..benchmarks.tasks.writers import TaskPrompt, tokens_of
from ..checkpoints.config import model_path, resolve
from ..checkpoints.tokenizer import load_tokenizer
from ..data.packing import render_prompt
from ..data.reasoning import held_out
from ..data.sources import Source

PACKAGE = Path(__file__).parents[1]
WORKER = Path(__file__).with_name("generation_worker.py")


class Side(NamedTuple):
    """What is timed: a model, with the code of a checkout."""

    name: str
    model: Path
    code: Path
    dtype: str = ""
    one_by_one: bool = False


def prompts_of(path: Path, code: Path | None, problems: int) -> list[list[int]]:
    """The prompts of a code task, or those of the built-in problems."""
    tokenizer = load_tokenizer(path)
    if code:
        asked = read_exercises(Source.parse(f"jsonl:{code}"))[:problems]
        return [
            tokens_of(tokenizer, TaskPrompt(frame(e.question, ()).turns, e.begun)) for e in asked
        ]
    special = not tokenizer.chat_template
    texts = [render_prompt(tokenizer, p.question) for p in held_out(problems)]
    return [tokenizer(text, add_special_tokens=special)["input_ids"] for text in texts]


def run(side: Side, folder: Path, task: dict[str, Any]) -> dict[str, Any]:
    """The worker's result; `folder` gets a link to the side's code under the package's name."""
    link = folder / side.name.replace(" ", "-") / "edgewright"
    if not link.exists():
        link.parent.mkdir()
        link.symlink_to(side.code.resolve(), target_is_directory=True)
    own = {"model": str(side.model), "dtype": side.dtype, "one_by_one": side.one_by_one}
    (folder / "task.json").write_text(json.dumps(task | own))
    subprocess.run(
        [sys.executable, WORKER, folder / "task.json", folder / "found.json"],
        check=True,
        env=os.environ | {"PYTHONPATH": str(link.parent)},
        cwd=folder,
    )
    return json.loads((folder / "found.json").read_text())


def sides_of(args: argparse.Namespace, path: Path) -> list[Side]:
    """The sides that were asked for; the first is what the others are compared with."""
    sides: list[Side] = []
    if args.one_by_one:
        sides.append(Side("one by one, transformers", path, PACKAGE, one_by_one=True))
    if args.old and not args.artifact:
        sides.append(Side("old, torch", path, args.old))
    if not args.artifact:
        sides.append(Side("continuous, torch", path, PACKAGE, args.dtype))
    for artifact in args.artifact:
        if args.old:
            sides.append(Side(f"old, ONNX Runtime, {artifact.name}", artifact, args.old))
        sides.append(Side(f"continuous, ONNX Runtime, {artifact.name}", artifact, PACKAGE))
    return sides


def report(sides: Sequence[Side], found: dict[str, list[dict[str, Any]]]) -> None:
    """Print rate, ratio, memory and the number of equal answers of each side."""
    first = found[sides[0].name]
    for side in sides:
        own = found[side.name]
        tokens = sum(map(len, own[-1]["answers"]))
        rates = [tokens / one["seconds"] for one in own]
        ratio = statistics.median(
            a["seconds"] / b["seconds"] for a, b in zip(first, own, strict=True)
        )
        pairs = list(zip(first[-1]["answers"], own[-1]["answers"], strict=True))
        print(
            f"{side.name} ({own[-1]['dtype']}): {statistics.median(rates):,.0f} tokens/s "
            f"(min {min(rates):,.0f}, max {max(rates):,.0f}), {ratio:.1f} times, "
            f"{statistics.median(one['seconds'] for one in own):,.0f} s, "
            f"{statistics.median(one['cpu_seconds'] for one in own):,.0f} CPU s, "
            f"peak {max(one['peak_bytes'] for one in own) / 1e9:.2f} GB, "
            f"{sum(a == b for a, b in pairs)} of {len(pairs)} answers equal"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--code", type=Path, help="JSONL of a code task; default: reasoning")
    parser.add_argument("--artifact", type=Path, nargs="*", default=[])
    parser.add_argument("--old", type=Path)
    parser.add_argument("--one-by-one", action="store_true")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--problems", type=int, default=164)
    parser.add_argument("--max-new-tokens", type=int, default=144)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: its default")
    args = parser.parse_args()
    path = resolve(model_path(args.model))
    sides = sides_of(args, path)
    task = {
        "prompts": prompts_of(path, args.code, args.problems),
        "max_new_tokens": args.max_new_tokens,
        "threads": args.threads,
    }
    found: dict[str, list[dict[str, Any]]] = {side.name: [] for side in sides}
    with TemporaryDirectory() as folder:
        for _ in range(args.rounds):
            for side in sides:
                found[side.name].append(run(side, Path(folder), task))
    report(sides, found)


if __name__ == "__main__":
    main()
