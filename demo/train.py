"""Train the demo model: a tiny Qwen2 that writes its steps before the answer, like DeepSeek-R1.

    python -m edgewright.demo.train --out DIR

The data come from `data/reasoning.py`, the training loop from `compress/distill`. The same
arguments on the same machine give the same weights.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from ..checkpoints.atomic_files import write_json
from ..compress.distill.losses import next_token_loss
from ..compress.distill.trainer import TrainConfig, train
from ..data.packing import Example, encode, pack
from ..data.reasoning import Problem, held_out_questions, training_problems

HERE = Path(__file__).parent
END = "<|endoftext|>"
USER = "<|user|>"
ASSISTANT = "<|assistant|>"
THINK = "<think>"
END_THINK = "</think>"
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How a Qwen2 tokenizer splits text before merging. Digits are single, as arithmetic needs."""
TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'user' %}"
    + USER
    + "{{ m['content'] }}{% else %}"
    + ASSISTANT
    + "{{ m['content'] }}"
    + END
    + "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}" + ASSISTANT + THINK + "\n{% endif %}"
)


STEPS = 1050
LR = 3e-3
OPTIMIZER = "muon"
VOCAB = 512
SEQ_LEN = 160
BATCH = 40


def problems(seed: int) -> Iterator[Problem]:
    """Training problems, without the held-out questions."""
    return training_problems(seed, held_out_questions())


def make_tokenizer(folder: Path) -> None:
    """Learn a byte-pair vocabulary of 512 tokens, and write the tokenizer files."""
    stream = problems(seed=1)
    text = [f"{p.question}\n{p.completion}" for p in (next(stream) for _ in range(4000))]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [END, USER, ASSISTANT, THINK, END_THINK]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        text,
        trainers.BpeTrainer(
            vocab_size=VOCAB, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "model_max_length": 1024,
        "padding_side": "left",
        "eos_token": END,
        "pad_token": END,
        "clean_up_tokenization_spaces": False,
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


class NextToken(nn.Module):
    """The loss of plain language-model training."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def forward(self, ids: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy on the labelled tokens of a batch [batch, seq]."""
        return next_token_loss(self.student(input_ids=ids, use_cache=False).logits, labels)


def rows(tokenizer: Any, seed: int) -> Iterator[Tensor]:
    """Yield packed rows int64 [2, SEQ_LEN] of ids and labels, without end."""
    examples = (Example(p.completion, p.question) for p in problems(seed))
    for row in pack((encode(tokenizer, e) for e in examples), SEQ_LEN):
        yield torch.tensor([row.ids, row.labels])


def build(end: int) -> Qwen2ForCausalLM:
    """The model with random weights.

    Its widths are multiples of 128, also after a quarter of the heads is pruned.
    """
    config = Qwen2Config(
        vocab_size=VOCAB,
        hidden_size=384,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        intermediate_size=1024,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 50_000.0},
        tie_word_embeddings=True,
        eos_token_id=end,
        pad_token_id=end,
        bos_token_id=None,
        # The model reads head_dim, but the config class does not declare it.
        head_dim=64,  # pyright: ignore[reportCallIssue]
    )
    return Qwen2ForCausalLM(config)


def main() -> None:
    """Train the model, and write it with its loss curve."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--lr", type=float, default=LR)
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default=OPTIMIZER)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=HERE / "model")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    make_tokenizer(args.out)
    tokenizer = AutoTokenizer.from_pretrained(args.out, trust_remote_code=False)
    model: Any = build(tokenizer.eos_token_id)
    started = time.monotonic()
    config = TrainConfig(args.steps, args.lr, BATCH, optimizer=args.optimizer, device=args.device)
    losses = train(NextToken(model), rows(tokenizer, args.seed), config, "training the reasoner")
    model.to(dtype=torch.bfloat16, device="cpu").save_pretrained(args.out)
    record = {
        "seed": args.seed,
        "steps": args.steps,
        "batch": BATCH,
        "seq_len": SEQ_LEN,
        "lr": args.lr,
        "optimizer": args.optimizer,
        "parameters": model.num_parameters(),
        "seconds": round(time.monotonic() - started),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "loss": [round(x, 5) for x in losses],
    }
    write_json(args.out / "training.json", record)


if __name__ == "__main__":
    main()
