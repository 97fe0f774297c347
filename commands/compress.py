"""The verbs that make a model smaller: prune, traces, distill, iterate, quantize."""

from __future__ import annotations

from typing import Annotated

import typer

from ..benchmarks.traces.options import TracesOptions
from ..compress.distill.options import DistillOptions
from ..compress.iterate.options import IterateOptions
from ..compress.prune.options import PruneOptions
from ..compress.quantize.options import QuantizeOptions
from ..steps.options import Calibration, Execution, Verification
from ..steps.places import Reads
from .common import cut_plan, prune_step, required, step, step_context
from .next_commands import after_traces
from .options import Expand
from .verb import Outcome, verb
from .verb_options import Model, Output, PruneOutput, TargetDevice, TracesOutput

__all__ = ["distill", "iterate", "prune", "quantize", "traces"]


@verb("prune")
def prune(
    model: Model,
    output: PruneOutput,
    options: PruneOptions,
    device: TargetDevice,
    verification: Verification,
    calibration: Calibration,
    execution: Execution,
) -> Outcome:
    """Remove attention heads, key/value groups, FFN neurons, layers or experts.

    It can also set half of the remaining weights to zero (2:4 sparsity). Stock transformers loads
    the result. Every criterion but taylor reads the model layer by layer from disk, so the model
    may be larger than memory.

    Examples:

        edgewright prune /models/Qwen2.5-0.5B --heads 0.25 --calibration text:wiki.txt --out pruned

        edgewright prune /models/Qwen2.5-0.5B --heads-threshold 0.5 --dry-run
        --target jetson-orin-nano-8gb

        edgewright prune /models/Qwen2.5-3B --min-tok-s 25 --target jetson-orin-nano-8gb
        --out pruned

        edgewright prune /models/Llama-2-7b --merge-kv 8 --out gqa

        edgewright prune /models/Qwen3-30B-A3B --experts 0.25 --criterion activation --out fewer

        edgewright prune /models/Qwen2.5-0.5B --sparsity 2:4 --calibration text:wiki.txt
        --out sparse
    """
    context = step_context(
        calibration,
        execution,
        proof=verification.proof,
        activation_budget=verification.activation_bytes,
    )
    if output.dry_run:
        return cut_plan(options, model, device.target, context)
    out = required(output.out, "--out", "give the directory to create, or --dry-run")
    place = Output(out=out, fresh=output.fresh)
    return prune_step(options, model, place, device.target, context)


@verb("traces", resumable=True)
def traces(
    model: Model, output: TracesOutput, options: TracesOptions, execution: Execution
) -> Outcome:
    """Let a teacher write chains of thought, and keep those with a confirmed answer.

    An answer is confirmed by the majority vote over the chains, by the known answer, or by both.
    Run the same command again to resume after an interruption.

    Examples:

        edgewright traces /models/teacher --prompts jsonl:gsm8k.jsonl --chains 8 --out traces.jsonl

        edgewright distill small --teacher none --data jsonl:traces.jsonl --out taught

        edgewright traces builtin:tiny-reasoner --prompts builtin:reasoning --limit 200
        --max-new-tokens 144 --out traces.jsonl
    """
    from ..pipeline.traces import run_traces

    report = run_traces(
        options,
        model,
        output.out,
        execution.seed,
        execution.device,
        output.fresh,
        memory_check=execution.memory_check,
    )
    return Outcome(report, "traces", then=after_traces(output.out))


@verb("distill", resumable=True)
def distill(
    student: Annotated[
        str, Reads(), typer.Argument(help="the model to train: a directory or hub id")
    ],
    output: Output,
    options: DistillOptions,
    execution: Execution,
) -> Outcome:
    """Train a smaller model on a larger one, or a pruned model on data alone.

    A student with a teacher first learns its hidden states (mean squared error), then its logits
    (KL divergence). With --teacher none it learns from the data alone. Run the same command again
    to resume after an interruption.

    Examples:

        edgewright distill small --teacher /models/big --data jsonl:gsm8k.jsonl --out taught

        edgewright distill pruned --teacher none --lora 16 --label-steps 300 --data text:wiki.txt
        --out recovered

        edgewright distill model --teacher model --qat 4 --scales-from int4 --hidden-steps 0
        --logit-steps 100 --lr 1e-4 --out int4-qat

        edgewright distill small --teacher /models/big --teacher-cache big-logits
        --data text:wiki.txt --out taught

        torchrun --nproc-per-node 4 -m edgewright.cli distill small --teacher /models/big
        --data text:wiki.txt --out taught
    """
    data = Calibration(source=options.data, seq_len=options.seq_len, bad_rows=options.bad_rows)
    return step("distill", options, student, output, step_context(data, execution))


@verb("iterate", resumable=True)
def iterate(
    model: Model,
    output: Output,
    options: IterateOptions,
    calibration: Annotated[Calibration, Expand(skip=("seq_len", "bad_rows"))],
    execution: Execution,
) -> Outcome:
    """Prune in rounds with training in between; keep the smallest model that is good enough.

    What to remove is counted over all rounds together; steps of training are per round. The loss
    is measured on held-out rows after every round. --seq-len and --bad-rows hold for calibration,
    training and measurement.

    Example:

        edgewright iterate /models/Qwen2.5-0.5B --rounds 4 --ffn 0.5 --data text:wiki.txt
        --max-loss-increase 0.1 --out small
    """
    recover = options.recover
    same = {"seq_len": recover.seq_len, "bad_rows": recover.bad_rows}
    rows = calibration.model_copy(update=same)
    return step("iterate", options, model, output, step_context(rows, execution))


@verb("quantize", resumable=True)
def quantize(
    model: Model,
    output: Output,
    options: QuantizeOptions,
    memory: Annotated[Verification, Expand(only=("activation_budget",))],
    calibration: Calibration,
    execution: Execution,
) -> Outcome:
    """Quantize the linear layers: 4-bit weights, or weights and activations in 8 bits.

    gptq and awq write the layouts of these names, which transformers and vLLM read. int8 writes
    compressed-tensors for vLLM. smoothquant writes what TensorRT-Edge-LLM reads. Run the same
    command again to resume after an interruption.

    Examples:

        edgewright quantize /models/Qwen2.5-0.5B --method gptq --calibration text:wiki.txt
        --out int4

        edgewright quantize /models/Qwen2.5-0.5B --method gptq --scaling awq --format awq
        --calibration text:wiki.txt --out both

        edgewright quantize /models/Qwen2.5-0.5B --method smoothquant --alpha 0.6
        --calibration text:wiki.txt --out sq

        edgewright quantize /models/Qwen2.5-0.5B --rule '*.down_proj=8'
        --rule 'model.layers.0.*=skip' --out mixed

        edgewright quantize /models/Qwen2.5-0.5B --sensitivity 0.05 --out better

        edgewright quantize /models/gemma-3-270m --head-bits 8 --out small-head

        edgewright quantize /models/Qwen3-30B-A3B --calibration text:wiki.txt
        --activation-budget 4 --out experts
    """
    context = step_context(calibration, execution, activation_budget=memory.activation_bytes)
    return step("quantize", options, model, output, context)
