"""How far packed checkpoints are from the model they were made from, on answers and on text.

    python -m edgewright.perf.kept MODEL CHECKPOINT... --answers NAME.answers.jsonl \
        --pairs gsm8k.jsonl --text wikitext.txt

KL(model || checkpoint) in nats and top-1 agreement, over the tokens of answers (prompts are not
counted): the model's own greedy answers, as `bench --save` keeps them; the answers of a data set;
running text. Layers run in bfloat16, the head and the divergence in float32. The body of a
checkpoint is compared: its head is the float one unless it is packed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checkpoints.loading import load_model
from ..checkpoints.tokenizer import load_tokenizer

CHUNK = 128
"""Positions whose logits are in memory at a time."""


class Row(NamedTuple):
    """Tokens of a prompt and its answer, and how many of them are the prompt's."""

    ids: list[int]
    prompt: int


def main() -> None:
    """Print a line for each checkpoint."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--answers", type=Path, help="NAME.answers.jsonl of bench --save")
    parser.add_argument("--pairs", type=Path, help="JSONL with question and answer")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--rows", type=int, default=25, help="rows of each kind, evenly spaced")
    arguments = parser.parse_args()
    sets = dict(_sets(arguments))
    model = load_model(arguments.model, dtype=torch.bfloat16)
    expected = {name: _hidden(model, rows) for name, rows in sets.items()}
    head = _head(model)
    del model
    for path in arguments.checkpoints:
        other = load_model(path, dtype=torch.bfloat16)
        found = {
            name: _divergence(expected[name], head, _hidden(other, rows), _head(other))
            for name, rows in sets.items()
        }
        told = ", ".join(
            f"{name}: KL {kl:.5f}, top-1 {top:.4f}" for name, (kl, top) in found.items()
        )
        print(f"{path.name}: {told}", flush=True)


def _sets(arguments: argparse.Namespace) -> Iterator[tuple[str, list[Row]]]:
    tokenizer = load_tokenizer(arguments.model)
    for file, key in ((arguments.answers, "text"), (arguments.pairs, "answer")):
        if file:
            rows = [json.loads(line) for line in file.read_text().splitlines()]
            step = max(1, len(rows) // arguments.rows)
            yield file.name, [_pair(tokenizer, row["question"], row[key]) for row in rows[::step]]
    if arguments.text:
        ids = tokenizer(arguments.text.read_text()[: 4000 * arguments.rows])["input_ids"]
        begins = range(0, len(ids) - 512, 512 * max(1, len(ids) // 512 // arguments.rows))
        yield arguments.text.name, [Row(ids[begin : begin + 512], 1) for begin in begins]


def _pair(tokenizer: Any, question: str, answer: str) -> Row:
    chat = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    return Row(ids + tokenizer(answer, add_special_tokens=False)["input_ids"], len(ids))


@torch.no_grad()
def _hidden(model: Any, rows: Sequence[Row]) -> list[Tensor]:
    """For each row, what enters the head where a token of the answer is predicted."""
    return [
        model.model(torch.tensor([row.ids])).last_hidden_state[0, row.prompt - 1 : -1].float()
        for row in rows
    ]


def _head(model: Any) -> Tensor:
    return model.lm_head.weight.detach().float()


def _divergence(
    expected: Sequence[Tensor], head: Tensor, found: Sequence[Tensor], own_head: Tensor
) -> tuple[float, float]:
    """Mean KL in nats, and the share of positions with the same most likely token."""
    kl = agreed = count = 0.0
    for theirs, ours in zip(expected, found, strict=True):
        for one, other in zip(theirs.split(CHUNK), ours.split(CHUNK), strict=True):
            p = torch.log_softmax(one @ head.t(), -1)
            q = torch.log_softmax(other @ own_head.t(), -1)
            kl += float((p.exp() * (p - q)).sum())
            agreed += float((p.argmax(-1) == q.argmax(-1)).sum())
            count += len(p)
    return kl / count, agreed / count


if __name__ == "__main__":
    main()
