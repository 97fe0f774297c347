"""Train the embedded tiny reasoner: DeepSeek-R1 in miniature, a Qwen2 that thinks in steps before it answers.

    python -m edgewright.demo.train --which teacher     # demo/model: 6.9 M parameters
    python -m edgewright.demo.train --which student     # demo/student: the weaker 2.9 M base

Both share one tokenizer, the data of ``data/reasoning.py`` and the training loop of ``compress/distill``. Running it
again with the same arguments on the same machine writes the same weights.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from ..compress.distill.losses import next_token_loss
from ..compress.distill.trainer import TrainConfig, train
from ..data.packing import Example, encode, pack
from ..data.reasoning import HELD_OUT, TASKS, Problem, held_out, training_problems

HERE = Path(__file__).parent
END, USER, ASSISTANT, THINK, UNTHINK = "<|endoftext|>", "<|user|>", "<|assistant|>", "<think>", "</think>"
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How a Qwen2 tokenizer cuts text before merging; single digits, which arithmetic needs."""
TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'user' %}" + USER + "{{ m['content'] }}{% else %}" + ASSISTANT + "{{ m['content'] }}" + END + "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}" + ASSISTANT + THINK + "\n{% endif %}"
)


@dataclass(frozen=True)
class Size:
    """A model's shape and how long it learns."""

    hidden: int
    layers: int
    heads: int
    ffn: int
    steps: int
    lr: float
    out: str


SIZES = {
    "teacher": Size(hidden=384, layers=4, heads=8, ffn=1024, steps=2800, lr=2e-3, out="model"),
    "student": Size(hidden=256, layers=4, heads=4, ffn=640, steps=700, lr=2e-3, out="student"),
}
VOCAB, SEQ_LEN, BATCH = 512, 256, 16


def problems(seed: int) -> Iterator[Problem]:
    """Training problems, never one of the held-out questions."""
    return training_problems(seed, frozenset(p.question for p in held_out(HELD_OUT * len(TASKS))))


def make_tokenizer(folder: Path) -> None:
    """Learn a byte-pair vocabulary of 512 cut as Qwen2 cuts, and write the tokenizer files."""
    stream = problems(seed=1)
    text = [f"{p.question}\n{p.completion}" for p in (next(stream) for _ in range(4000))]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    special = [END, USER, ASSISTANT, THINK, UNTHINK]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(text, trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=special, initial_alphabet=alphabet, show_progress=False))
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "Qwen2Tokenizer", "model_max_length": 1024, "padding_side": "left",
        "eos_token": END, "pad_token": END, "clean_up_tokenization_spaces": False, "chat_template": TEMPLATE,
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


def rows(tokenizer: object, seed: int) -> Iterator[Tensor]:
    """Packed rows int64 [2, SEQ_LEN] of ids and labels, without end."""
    examples = (Example(p.completion, p.question) for p in problems(seed))
    for row in pack((encode(tokenizer, e) for e in examples), SEQ_LEN):
        yield torch.tensor([row.ids, row.labels])


def build(size: Size, vocab: int, end: int) -> Qwen2ForCausalLM:
    """A Qwen2 of the given shape with random weights; every width is a multiple of 128."""
    config = Qwen2Config(
        vocab_size=vocab, hidden_size=size.hidden, num_hidden_layers=size.layers, num_attention_heads=size.heads,
        num_key_value_heads=2, head_dim=64, intermediate_size=size.ffn, max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 50_000.0}, tie_word_embeddings=True,
        eos_token_id=end, pad_token_id=end, bos_token_id=None,
    )  # fmt: skip
    return Qwen2ForCausalLM(config)


def main() -> None:
    """Train one of the two models and write it with its loss curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--which", choices=sorted(SIZES), default="teacher")
    parser.add_argument("--steps", type=int, help="train for so many steps instead of the default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="where to write (default: beside this script)")
    args = parser.parse_args()
    size = SIZES[args.which]
    out = args.out or HERE / size.out
    torch.manual_seed(args.seed)
    make_tokenizer(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    model = build(size, VOCAB, tokenizer.eos_token_id)
    config = TrainConfig(steps=args.steps or size.steps, lr=size.lr, batch_size=BATCH, device=args.device)
    started = time.monotonic()
    losses = train(NextToken(model), rows(tokenizer, args.seed), config, f"training the {args.which}")
    model.cpu().to(torch.bfloat16).save_pretrained(out)
    record = {
        "seed": args.seed, "steps": config.steps, "batch": BATCH, "seq_len": SEQ_LEN, "lr": size.lr,
        "parameters": model.num_parameters(), "seconds": round(time.monotonic() - started), "torch": torch.__version__,
        "machine": platform.machine(), "loss": [round(x, 5) for x in losses],
    }  # fmt: skip
    (out / "training.json").write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
