r"""Compare importance criteria for pruning heads: held-out perplexity after the cut, untrained.

    python -m edgewright.perf.criteria MODEL --calibration text:calibration.txt \
        --text text:heldout.txt

The cut is a mask on the loaded model, which computes the same as a pruned checkpoint. So numbers of
heads can be measured that stock loaders would refuse. The second column is after refitting the
remaining weights. Each line is printed as soon as it is measured. The standard error is that of
the perplexity, with windows as the units.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from ..benchmarks.tasks.accuracy import TextScores, score_text
from ..benchmarks.tasks.backends import TorchBackend
from ..checkpoints.config import read_architecture
from ..checkpoints.streaming import InMemory
from ..checkpoints.tokenizer import load_tokenizer
from ..compress.calibration.activation_buffer import ActivationBuffer
from ..compress.calibration.layer_inputs import first_inputs
from ..compress.prune.compensate import Compensation
from ..compress.prune.counts import head_counts
from ..compress.prune.criteria import CRITERIA
from ..compress.prune.cut import KeptParts
from ..compress.prune.masking import masked, masked_layer
from ..compress.prune.scoring import score_model
from ..compress.prune.selection import choose_heads
from ..data.packing import Encoded
from ..data.sources import Source, scoring_rows
from ..models import Architecture, decoder_layers, weight_of
from ..steps.context import CalibrationData


@contextmanager
def restored(model: torch.nn.Module, architecture: Architecture) -> Iterator[None]:
    """Restore the output projections when the block ends."""
    projections = [
        weight_of(module.get_submodule(name))
        for module, layer in zip(
            decoder_layers(model, architecture), architecture.layers, strict=True
        )
        for name in layer.outputs
    ]
    before = [weight.clone() for weight in projections]
    try:
        yield
    finally:
        for weight, old in zip(projections, before, strict=True):
            weight.copy_(old)


@torch.no_grad()
def refit(model: InMemory, rows: list[Tensor], kept: KeptParts) -> None:
    """Refit a loaded model in place, as the prune step does."""
    states, calls = first_inputs(model, rows)
    compensation = Compensation(model.architecture, kept, states, ActivationBuffer())
    layers = model.architecture.layers
    for layer, module, call in zip(layers, model.layers, calls, strict=True):
        compensation.refit(layer.index, module, call, states)
        with masked_layer(module, layer, kept):
            for batch in compensation.batches:
                states[batch] = call(module, states[batch])


def run(args: argparse.Namespace) -> None:
    """Measure all criteria and print the table."""
    backend = TorchBackend(args.model)
    architecture = read_architecture(args.model)
    sizes = architecture.attention_sizes
    model = backend.model
    rows = CalibrationData(args.calibration, args.samples, args.seq_len).rows(args.model, 0)
    held_out = scoring_rows(
        load_tokenizer(args.model), Source.parse(args.text), args.window, args.windows
    )
    keep, keep_kv = head_counts(sizes, args.heads, 0.0, lambda _: True)

    def line(name: str, *texts: TextScores) -> None:
        print(
            "| "
            + " | ".join([name, *(f"{t.perplexity:.4g} ± {t.stderr:.2g}" for t in texts)])
            + " |",
            flush=True,
        )

    print(
        f"{keep} of {sizes.heads} query heads stay; {len(held_out)} held-out windows "
        f"of {args.window} tokens",
        flush=True,
    )
    line("uncut", score(backend, held_out))
    tried: list[tuple[str, int]] = [
        (c, s)
        for c in CRITERIA
        if c in args.criteria
        for s in range(args.seeds if CRITERIA[c].at_random else 1)
    ]
    for criterion, seed in tried:
        scores = score_model(model, architecture, rows, criterion, seed)
        heads = choose_heads(scores.heads, sizes.kv_heads, keep, keep_kv)
        kept = KeptParts(
            heads,
            [list(range(architecture.intermediate_size))] * len(heads),
            list(range(len(heads))),
        )
        with masked(model, architecture, kept):
            plain = score(backend, held_out)
        with restored(model, architecture):
            refit(InMemory(model, architecture), rows, kept)
            with masked(model, architecture, kept):
                line(
                    f"{criterion} {seed}" if CRITERIA[criterion].at_random else criterion,
                    plain,
                    score(backend, held_out),
                )


def score(backend: TorchBackend, rows: list[Encoded]) -> TextScores:
    """Perplexity of the loaded model as it is now."""
    return score_text(backend, rows)


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", default="builtin:reasoning")
    parser.add_argument("--text", default="builtin:reasoning")
    parser.add_argument("--heads", type=float, default=0.25)
    parser.add_argument("--criteria", nargs="+", default=list(CRITERIA), choices=CRITERIA)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=3)
    run(parser.parse_args())


if __name__ == "__main__":
    main()
