"""Train the embedded tiny reasoner: DeepSeek-R1 in miniature, a Qwen2 that thinks in steps before it answers.

    python -m edgewright.demo.train --stage 1 --out STAGE1                 # brief traces
    python -m edgewright.demo.train --stage 2 --start STAGE1               # traces with every step written down

Data are those of ``data/reasoning.py``, the loop is that of ``compress/distill``. The same arguments on the same machine
write the same weights.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from ..checkpoint import copy_tokenizer, write_json
from ..compress.distill.losses import next_token_loss
from ..compress.distill.trainer import TrainConfig, train
from ..data.packing import Example, encode, pack
from ..data.reasoning import Problem, held_out_questions, training_problems
from ..loading import load_model

HERE = Path(__file__).parent
END, USER, ASSISTANT, THINK, UNTHINK = "<|endoftext|>", "<|user|>", "<|assistant|>", "<think>", "</think>"
QWEN_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""How a Qwen2 tokenizer cuts text before merging; single digits, which arithmetic needs."""
TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'user' %}" + USER + "{{ m['content'] }}{% else %}" + ASSISTANT + "{{ m['content'] }}" + END + "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}" + ASSISTANT + THINK + "\n{% endif %}"
)


@dataclass(frozen=True)
class Stage:
    """What one stage learns on, and for how long."""

    steps: int
    lr: float
    brief: bool


STAGES = {1: Stage(steps=2800, lr=2e-3, brief=True), 2: Stage(steps=1500, lr=1.2e-3, brief=False)}
VOCAB, SEQ_LEN, BATCH = 512, 256, 16


def problems(seed: int, brief: bool) -> Iterator[Problem]:
    """Training problems, never one of the held-out questions."""
    return training_problems(seed, held_out_questions(), brief)


def make_tokenizer(folder: Path) -> None:
    """Learn a byte-pair vocabulary of 512 cut as Qwen2 cuts, and write the tokenizer files."""
    stream = problems(seed=1, brief=True)
    text = [f"{p.question}\n{p.completion}" for p in (next(stream) for _ in range(4000))]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    special = [END, USER, ASSISTANT, THINK, UNTHINK]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        text, trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
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
    """The plain language-model objective."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def forward(self, ids: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy on the scored tokens of a batch [batch, seq]."""
        return next_token_loss(self.student(input_ids=ids, use_cache=False).logits, labels)


def rows(tokenizer: Any, seed: int, brief: bool) -> Iterator[Tensor]:
    """Packed rows int64 [2, SEQ_LEN] of ids and labels, without end."""
    examples = (Example(p.completion, p.question) for p in problems(seed, brief))
    for row in pack((encode(tokenizer, e) for e in examples), SEQ_LEN):
        yield torch.tensor([row.ids, row.labels])


def build(end: int) -> Qwen2ForCausalLM:
    """The model with random weights; every width is a multiple of 128, also after a quarter of the heads is gone."""
    config = Qwen2Config(
        vocab_size=VOCAB, hidden_size=384, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=2,
        intermediate_size=1024, max_position_embeddings=1024, rope_parameters={"rope_type": "default", "rope_theta": 50_000.0},
        tie_word_embeddings=True, eos_token_id=end, pad_token_id=end, bos_token_id=None,
        head_dim=64,  # pyright: ignore[reportCallIssue]  # read by the model, and not declared by the config class
    )  # fmt: skip
    return Qwen2ForCausalLM(config)


def begin(start: Path | None, out: Path, seed: int) -> tuple[Any, dict[str, Any]]:
    """The model to train and the record of the stage before: a new model, or the one that `start` holds."""
    if start is None:
        torch.manual_seed(seed)
        make_tokenizer(out)
        return build(AutoTokenizer.from_pretrained(out).eos_token_id), {}
    out.mkdir(parents=True, exist_ok=True)
    copy_tokenizer(start, out)
    return load_model(start), {"before": json.loads((start / "training.json").read_text())}


def main() -> None:
    """Train one stage and write the model with its loss curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", type=int, choices=sorted(STAGES), default=1)
    parser.add_argument("--start", type=Path, help="directory of the stage before")
    parser.add_argument("--steps", type=int, help="train for so many steps instead of the default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=HERE / "model")
    args = parser.parse_args()
    stage = STAGES[args.stage]
    model, before = begin(args.start, args.out, args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.out)
    steps = args.steps or stage.steps
    seed = args.seed + args.stage - 1  # no stage sees the problems of another
    started = time.monotonic()
    config = TrainConfig(steps=steps, lr=stage.lr, batch_size=BATCH, device=args.device)
    losses = train(NextToken(model), rows(tokenizer, seed, stage.brief), config, f"stage {args.stage}")
    model.to(dtype=torch.bfloat16, device="cpu").save_pretrained(args.out)
    record = {
        "stage": args.stage, "seed": args.seed, "steps": steps, "batch": BATCH, "seq_len": SEQ_LEN, "lr": stage.lr,
        "parameters": model.num_parameters(), "seconds": round(time.monotonic() - started), "torch": torch.__version__,
        "machine": platform.machine(), "loss": [round(x, 5) for x in losses], **before,
    }  # fmt: skip
    write_json(args.out / "training.json", record)


if __name__ == "__main__":
    main()
