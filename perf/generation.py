r"""Compare batched generation with transformers' one-by-one `generate`, on the same problems.

    python -m edgewright.perf.generation builtin:tiny-reasoner --problems 64 --rounds 3 \
        [--artifact DIR]

The sides take turns, so that the machine's changes hit all of them. The number of equal answers is
printed. `--artifact` adds the same model after an export.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ..benchmarks.tasks.backends import TorchBackend, open_backend
from ..benchmarks.tasks.generation import end_tokens_of, generate_texts
from ..checkpoints.config import model_path, resolve
from ..checkpoints.loading import load_tokenizer
from ..data.packing import render_prompt
from ..data.reasoning import held_out

Answers = list[list[int]]


def one_by_one(
    backend: TorchBackend, prompts: Answers, max_new_tokens: int, eos: list[int]
) -> Answers:
    """Answers of `model.generate` to each prompt alone, without the end token."""
    answers: Answers = []
    for ids in prompts:
        out = backend.model.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=eos,
            pad_token_id=eos[0],
        )
        answers.append([token for token in out[0, len(ids) :].tolist() if token not in eos])
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--artifact", type=Path)
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--max-new-tokens", type=int, default=144)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    path = resolve(model_path(args.model))
    tokenizer = load_tokenizer(path)
    backend = TorchBackend(path)
    eos = end_tokens_of(backend, tokenizer)
    special = not tokenizer.chat_template
    prompts = [
        tokenizer(render_prompt(tokenizer, p.question), add_special_tokens=special)["input_ids"]
        for p in held_out(args.problems)
    ]
    sides: dict[str, Callable[[], Answers]] = {
        "one by one, transformers": lambda: one_by_one(backend, prompts, args.max_new_tokens, eos),
        "batched, torch": lambda: generate_texts(backend, prompts, args.max_new_tokens, eos),
    }
    if args.artifact:
        exported = open_backend(args.artifact)
        sides["batched, ONNX Runtime"] = lambda: generate_texts(
            exported, prompts, args.max_new_tokens, eos
        )
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    answers: dict[str, Answers] = {}
    for _ in range(args.rounds):
        for name, side in sides.items():
            begin = time.perf_counter()
            answers[name] = side()
            seconds[name].append(time.perf_counter() - begin)
    first = next(iter(sides))
    for name in sides:
        tokens = sum(map(len, answers[name]))
        rates = [tokens / s for s in seconds[name]]
        ratio = statistics.median(a / b for a, b in zip(seconds[first], seconds[name], strict=True))
        same = sum(a == b for a, b in zip(answers[first], answers[name], strict=True))
        print(
            f"{name}: {statistics.median(rates):,.0f} tokens/s "
            f"(min {min(rates):,.0f}, max {max(rates):,.0f}), {ratio:.1f} times, "
            f"{same} of {len(prompts)} answers equal"
        )
    print(f"{torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
