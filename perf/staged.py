"""Test whether distillation in stages is better than each stage alone, on the same tokens.

    python -m edgewright.perf.staged --steps 120 --seeds 0,1,2 [--traces traces.jsonl]

The variants ("arms") are: hidden states and then KL, KL alone, cross-entropy alone. The student is
pruned from the demo model as in `recipes/demo.yaml` (a quarter of the heads, three quarters of the
FFN). All arms take the same number of steps on the same rows, which depend only on the seed.
`--traces` adds an arm that ends on a file of `edgewright traces`, with the same number of steps in
total. The learning rate is `--lr`; with `--rates`, each arm and seed uses the best of three by
held-out perplexity.

The output is exact match on held-out problems and perplexity for each arm and seed, then means,
and differences from the staged arm by seed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from ..benchmarks.measure import measure
from ..benchmarks.options import EvaluateOptions
from ..checkpoints.config import model_path, resolve
from ..compress.distill.options import DistillOptions, Stage
from ..compress.distill.runner import distill
from ..compress.prune.options import PruneOptions
from ..compress.prune.runner import prune
from ..steps.context import CalibrationData, StepContext

EVALUATE = EvaluateOptions(
    tasks=("reasoning",),
    limit=256,
    max_new_tokens=144,
    perplexity=("builtin:reasoning",),
    latency=None,
)


def arms(steps: int, traces: Path | None) -> dict[str, list[Stage]]:
    """Name -> stages of each arm. All arms have the same number of steps."""
    third = steps // 3
    half = steps // 2
    found = {
        "hidden, then KL": [
            Stage(loss="hidden", steps=half),
            Stage(loss="logits", steps=steps - half),
        ],
        "KL alone": [Stage(loss="logits", steps=steps)],
        "cross-entropy alone": [Stage(loss="labels", steps=steps)],
    }
    if traces:
        found["hidden, then KL, then traces"] = [
            Stage(loss="hidden", steps=third),
            Stage(loss="logits", steps=steps - 2 * third),
            Stage(loss="labels", steps=third, data=f"jsonl:{traces}"),
        ]
    return found


def student_of(teacher: Path, folder: Path, context: StepContext) -> Path:
    """Prune the teacher as the demo recipe does, in two steps."""
    prune(PruneOptions(heads=0.25), teacher, folder / "heads", context)
    prune(PruneOptions(ffn=0.75), folder / "heads", folder / "student", context)
    return folder / "student"


def train_and_measure(
    teacher: Path,
    student: Path,
    stages: list[Stage],
    lr: float,
    seed: int,
    out: Path,
    args: argparse.Namespace,
) -> tuple[float, float]:
    """Exact match and perplexity of a student after the stages of an arm."""
    options = DistillOptions(
        teacher=str(teacher),
        stages=tuple(stage.model_copy(update={"lr": lr}) for stage in stages),
        seq_len=args.seq_len,
        batch_size=args.batch_size,
        optimizer=args.optimizer,
    )
    distill(options, student, out, StepContext(seed=seed))
    metrics = measure(out, EVALUATE).metrics
    return metrics["accuracy/reasoning"], metrics["perplexity/reasoning"]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in (("--steps", 120), ("--seq-len", 160), ("--batch-size", 24)):
        parser.add_argument(name, type=int, default=value)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument(
        "--rates", action="store_true", help="also try a third and three times of --lr"
    )
    parser.add_argument("--optimizer", default="muon")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--traces", type=Path)
    return parser.parse_args()


def main() -> None:
    """Train and measure all arms, and print the tables."""
    args = _arguments()
    seeds = [int(seed) for seed in args.seeds.split(",")]
    rates = [args.lr / 3, args.lr, args.lr * 3] if args.rates else [args.lr]
    teacher = resolve(model_path("builtin:tiny-reasoner"))
    results: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        student = student_of(teacher, folder, StepContext(CalibrationData(samples=96, seq_len=256)))
        tokens = args.steps * args.batch_size * args.seq_len
        print(f"{args.steps} steps, {tokens:,} tokens per arm, {args.optimizer}", flush=True)
        print("| arm | seed | learning rate | exact match | perplexity |", flush=True)
        print("|---|---|---|---|---|", flush=True)
        for seed in seeds:
            for arm, stages in arms(args.steps, args.traces).items():
                tried = {
                    lr: train_and_measure(teacher, student, stages, lr, seed, folder / "out", args)
                    for lr in rates
                }
                lr = min(rates, key=lambda rate: tried[rate][1])
                results.setdefault(arm, []).append(tried[lr])
                print(
                    f"| {arm} | {seed} | {lr:g} | {tried[lr][0]:.4f} | {tried[lr][1]:.5f} |",
                    flush=True,
                )
    _print_means(results)


def _print_means(results: dict[str, list[tuple[float, float]]]) -> None:
    staged = next(iter(results.values()))
    print(
        "\n| arm | exact match, mean | perplexity, mean "
        "| staged arm's exact match minus this arm's, by seed |\n|---|---|---|---|"
    )
    for arm, found in results.items():
        match, perplexity = (statistics.mean(values) for values in zip(*found, strict=True))
        gaps = ", ".join(f"{a[0] - b[0]:+.4f}" for a, b in zip(staged, found, strict=True))
        print(f"| {arm} | {match:.4f} | {perplexity:.5f} | {gaps} |")


if __name__ == "__main__":
    main()
