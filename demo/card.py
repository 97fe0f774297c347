"""Measure the demo model on its held-out problems, and write its model card.

    python -m edgewright.demo.card            # about 1,000 held-out problems

The card's accuracy is measured here. The loss curve comes from `training.json` beside the weights.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from ..benchmarks.tasks.accuracy import Answer, exact_match
from ..benchmarks.tasks.backends import open_backend
from ..benchmarks.tasks.writers import LocalWriter
from ..checkpoints.atomic_files import write_json
from ..checkpoints.config import read_architecture
from ..checkpoints.hashing import weight_bytes
from ..checkpoints.tokenizer import load_tokenizer
from ..data.reasoning import HELD_OUT, TASKS, held_out

HERE = Path(__file__).parent / "model"
CARD = """---
license: apache-2.0
language: [en]
library_name: transformers
pipeline_tag: text-generation
tags: [edgewright, reasoning, arithmetic, tiny]
---
# tiny-reasoner

A Qwen2-architecture causal language model of {parameters:,} parameters that solves generated
arithmetic and word problems by writing its steps between `<think>` and `</think>` and then the
answer. It exists so that a whole compression pipeline can be run and tested in minutes, without a
network. Its tasks are sums of up to five terms, products of two-digit numbers, greatest common
divisors by Euclid's steps, and counting the legs of a list of animals.

| shape | |
|---|---|
| width, layers | {hidden} , {layers} |
| query heads, key/value heads, head size | {heads}, {kv_heads}, {head_dim} |
| FFN width, vocabulary | {ffn}, {vocab} (byte-pair, single digits) |
| weights | {megabytes:.1f} MB safetensors, bfloat16, embedding and head tied |

## Held-out accuracy
Exact match, greedy, float32, the verifier of reasoning-gym; {count} problems whose questions never
occur in training (training drops them; the generator's seeds are disjoint as well).

| task | problems | exact match | standard error |
|---|---|---|---|
{table}

## Training
`make demo-model`, which is `python -m edgewright.demo.train`. {optimizer} with cosine decay, packed
rows, loss only on what follows the prompt. Data: problems by reasoning-gym ({tasks}), step-by-step
traces by `data/reasoning.py`.

| | |
|---|---|
| seed | {seed} |
| steps | {steps:,} of {batch} rows x {seq_len} tokens = {tokens:,} tokens |
| peak learning rate | {lr:g} |
| time | {minutes:.0f} minutes on two CPU cores that other work shared |
| torch | {torch} |

The loss of every step is in `training.json`; here the mean of 50 steps at each tenth of the way:

| {tenths} |
|{rules}|
| {curve} |
"""


def _table(answers: list[Answer]) -> str:
    """Accuracy by task and in total."""
    rows = []
    groups = {task: (task,) for task in TASKS} | {"**together**": tuple(TASKS)}
    for name, tasks in groups.items():
        chosen = [a.correct for a in answers if a.task in tasks]
        share = sum(chosen) / len(chosen)
        error = math.sqrt(share * (1 - share) / (len(chosen) - 1))
        rows.append(f"| {name} | {len(chosen)} | {share:.4f} | {error:.4f} |")
    return "\n".join(rows)


def _curve(losses: list[float]) -> str:
    """The mean of 50 losses at each tenth of the training."""
    ends = [round(len(losses) * share / 10) for share in range(1, 11)]
    return " | ".join(f"{sum(losses[max(0, e - 50) : e]) / min(50, e):.3f}" for e in ends)


def _card(model: Path, answers: list[Answer]) -> str:
    """The model card, from the answers and the model's own files."""
    training = json.loads((model / "training.json").read_text())
    architecture = read_architecture(model)
    sizes = architecture.attention_sizes
    optimizers = {"adamw": "AdamW", "muon": "Muon for the layers' matrices, AdamW for the rest,"}
    record = {
        key: training[key]
        for key in ("parameters", "seed", "steps", "batch", "seq_len", "lr", "torch")
    }
    return CARD.format(
        **record,
        optimizer=optimizers[training["optimizer"]],
        hidden=architecture.hidden_size,
        layers=len(architecture.layers),
        heads=sizes.heads,
        kv_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        ffn=architecture.intermediate_size,
        vocab=architecture.vocab_size,
        megabytes=weight_bytes(model) / 1e6,
        count=len(answers),
        table=_table(answers),
        tasks=", ".join(f"`{task}`" for task in TASKS),
        tokens=training["steps"] * training["batch"] * training["seq_len"],
        minutes=training["seconds"] / 60,
        tenths=" | ".join(f"{n}/10" for n in range(1, 11)),
        rules="|".join(["---"] * 10),
        curve=_curve(training["loss"]),
    )


def main() -> None:
    """Measure and write README.md and evaluation.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=HERE)
    parser.add_argument("--limit", type=int, default=HELD_OUT * len(TASKS))
    args = parser.parse_args()
    backend = open_backend(args.model)
    tokenizer = load_tokenizer(args.model)
    answers = exact_match(LocalWriter(backend, tokenizer), held_out(args.limit), max_new_tokens=160)
    share = sum(a.correct for a in answers) / len(answers)
    (args.model / "README.md").write_text(_card(args.model, answers))
    write_json(args.model / "evaluation.json", {"problems": len(answers), "exact_match": share})
    print(f"exact match {share:.4f} on {len(answers)} held-out problems")


if __name__ == "__main__":
    main()
