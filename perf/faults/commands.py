"""The commands that are disturbed: every step kind and every verb that writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["COMMANDS", "DERIVED", "Command"]


@dataclass(frozen=True)
class Command:
    """A command line whose result is known.

    Attributes:
        arguments: what follows `edgewright`. Inputs are in `../inputs`; the rest is written to the
            current directory.
        copies: inputs that the command changes, by the name of their copy in the current directory.
        has_fresh: whether it has the option `--fresh`.
        unread: a directory that the command does not read when it reuses its result.
    """

    arguments: tuple[str, ...]
    copies: Mapping[str, str] = field(default_factory=dict[str, str])
    has_fresh: bool = True
    unread: str = ""


def _command(text: str, has_fresh: bool = True, unread: str = "", **copies: str) -> Command:
    return Command(tuple(text.split()), copies, has_fresh, unread)


STORY = "--calibration text:../inputs/story.txt --samples 4 --seq-len 32 --device cpu --out out"
TAUGHT = "--data text:../inputs/story.txt --seq-len 32 --batch-size 4 --save-every 2 --out out"
MODEL = "../inputs/model"
DISTILL = f"distill {MODEL} --device cpu {TAUGHT}"
EXPORT = "--device cpu --out out"

COMMANDS: dict[str, Command] = {
    "prune-heads": _command(f"prune {MODEL} --heads 0.5 {STORY}"),
    "prune-kv": _command(f"prune {MODEL} --merge-kv 1 {STORY}"),
    "prune-ffn": _command(f"prune {MODEL} --ffn 0.5 --criterion magnitude {STORY}"),
    "prune-layers": _command(f"prune {MODEL} --layers 1 {STORY}"),
    "prune-two-four": _command(f"prune {MODEL} --sparsity 2:4 {STORY}"),
    "distill": _command(f"{DISTILL} --teacher ../inputs/teacher --hidden-steps 4 --logit-steps 4"),
    "distill-cached": _command(
        f"{DISTILL} --teacher ../inputs/teacher --hidden-steps 0 --logit-steps 4 "
        "--teacher-cache cache",
        unread="cache",
    ),
    "distill-lora": _command(f"{DISTILL} --teacher none --label-steps 6 --lora 4"),
    "distill-qat": _command(
        f"{DISTILL} --teacher ../inputs/teacher --qat 4 --hidden-steps 0 --logit-steps 4"
    ),
    "quantize-gptq": _command(f"quantize {MODEL} --method gptq --group-size 32 {STORY}"),
    "quantize-awq": _command(f"quantize {MODEL} --method awq --group-size 32 {STORY}"),
    "quantize-int8": _command(f"quantize {MODEL} --method int8 {STORY}"),
    "quantize-smoothquant": _command(f"quantize {MODEL} --method smoothquant {STORY}"),
    "quantize-rtn": _command(f"quantize {MODEL} --method rtn --group-size 32 {STORY}"),
    "quantize-own-text": _command(
        f"quantize {MODEL} --method gptq --group-size 32 --samples 2 --seq-len 32 --device cpu "
        "--calibration builtin:own --out out"
    ),
    "iterate": _command(
        f"iterate {MODEL} --rounds 2 --ffn 0.5 --criterion norm --data text:../inputs/story.txt "
        f"--batch-size 4 --logit-steps 2 --held-out-rows 4 {STORY}"
    ),
    "export-onnx": _command(f"export ../inputs/int4 --precision int4 {EXPORT}"),
    "export-ort": _command(f"export {MODEL} --format ort --precision fp32 {EXPORT}"),
    "export-gguf": _command(f"export {MODEL} --format gguf --precision fp16 {EXPORT}"),
    "export-triton": _command(f"export {MODEL} --format triton --precision fp32 {EXPORT}"),
    "export-edge-llm": _command(f"export {MODEL} --format edge-llm --precision fp16 {EXPORT}"),
    "bundle": _command(
        "deploy ../inputs/onnx --target jetson-orin-nano-8gb --context 64 --prompt 32 --out out",
        has_fresh=False,
    ),
    "bench": _command(
        f"bench {MODEL} --perplexity text:../inputs/story.txt --windows 4 --seq-len 32 "
        "--tasks reasoning --limit 4 --max-new-tokens 8 --device cpu --save measured.json",
        has_fresh=False,
    ),
    "traces": _command(
        "traces ../inputs/model --prompts jsonl:../inputs/questions.jsonl --limit 4 --chains 2 "
        "--max-new-tokens 8 --device cpu --out traces.jsonl"
    ),
    "gate-update": _command(
        "gate ../inputs/same.json --baseline base.json --update-baseline",
        has_fresh=False,
        base="base.json",
    ),
    "gate-files": _command(
        "gate ../inputs/same.json --baseline ../inputs/base.json --junit gate.xml "
        "--markdown gate.md",
        has_fresh=False,
    ),
    "report": _command("report run", has_fresh=False, run="run"),
    "compare": _command(
        "compare ../inputs/run:baseline ../inputs/run:quantize --html compare.html "
        "--markdown compare.md",
        has_fresh=False,
    ),
    "run": _command("run ../inputs/recipe.yaml --out out"),
    "sweep": _command(
        "sweep ../inputs/sweep.yaml --vary steps.quantize.group_size=32,64 "
        "--objective size_bytes --objective perplexity/story --out out",
        has_fresh=False,
    ),
}
"""By name."""

DERIVED: tuple[str, ...] = (
    f"quantize model --method gptq --group-size 32 "
    f"{STORY.replace('../inputs/', '').replace('--out out', '--out int4')}",
    "export model --precision fp32 --device cpu --out onnx",
    "run recipe.yaml --out run",
)
"""Commands that make further inputs of the first ones."""
