"""The verbs that make a model smaller, for the command line: prune, traces, distill, iterate and quantize."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from ..errors import UsageError
from .common import (
    CALIBRATION,
    ActivationBudget,
    Bf16,
    CalibrationSource,
    Debug,
    Device,
    Fresh,
    Json,
    Model,
    Out,
    Samples,
    Seed,
    SeqLen,
    Target,
    checked,
    resumable,
    run_prune,
    run_step,
    show_cut,
)
from .tables import show

__all__ = ["distill", "iterate", "prune", "quantize", "traces"]

Lr = Annotated[float, typer.Option(help="peak learning rate of every stage")]
Lora = Annotated[
    int, typer.Option(help="learn adapters of this rank and merge them; 0: all weights learn")
]
LoraAlpha = Annotated[int | None, typer.Option(help="their scale, times the rank; default 32")]
LoraTargets = Annotated[
    str,
    typer.Option(help="comma-separated matrices of a decoder layer; default: queries and values"),
]
Qat = Annotated[
    int,
    typer.Option(
        help="learn with weights fake-quantized to 2, 4 or 8 bit, written packed; 0: do not"
    ),
]
QatGroupSize = Annotated[
    int, typer.Option(help="input channels a scale: 32, 64, 128, or -1 for all")
]
QatSym = Annotated[
    bool,
    typer.Option("--qat-sym/--qat-asym", help="zero point in the middle, as Jetson kernels need"),
]
ScalesFrom = Annotated[
    str | None,
    typer.Option(help="packed checkpoint of the student to start --qat from; default: rounding"),
]
Optimizer = Annotated[str, typer.Option(help="adamw, or muon: fewer steps to the same loss")]
Attention = Annotated[
    float, typer.Option(help="weight of the divergence of attention maps beside the hidden states")
]
OnPolicy = Annotated[
    float,
    typer.Option(help="share of the rows of the logits stage that the student continues itself"),
]
Freeze = Annotated[
    list[str] | None,
    typer.Option(
        help="pattern of the names of parameters that do not learn in any stage; repeatable"
    ),
]
EarlyStop = Annotated[
    int,
    typer.Option(
        help="end a stage after so many measurements without a new lowest held-out loss; 0: never"
    ),
]
MeasureEvery = Annotated[int, typer.Option(help="steps between two such measurements")]
TrackerName = Annotated[
    str | None,
    typer.Option(
        "--tracker", help="tensorboard, trackio or wandb: curves in a folder beside --out"
    ),
]
HoldOut = Annotated[
    int,
    typer.Option(
        help="rows at the end of the data that are not learnt on, but measured for --early-stop"
    ),
]


def prune(
    model: Model,
    out: Annotated[
        Path | None, typer.Option("--out", help="directory to make; not needed with --dry-run")
    ] = None,
    heads: Annotated[
        float, typer.Option(help="share of query heads to remove from every key/value group")
    ] = 0.0,
    kv_heads: Annotated[
        float, typer.Option(help="share of key/value heads to remove, each with its query heads")
    ] = 0.0,
    ffn: Annotated[float, typer.Option(help="share of FFN neurons to remove")] = 0.0,
    layers: Annotated[int, typer.Option(help="layers to remove, least block influence first")] = 0,
    experts: Annotated[
        float, typer.Option(help="share of experts to remove from every layer of a mixture")
    ] = 0.0,
    heads_threshold: Annotated[
        float | None,
        typer.Option(help="remove the share of heads below this times the layer's mean"),
    ] = None,
    ffn_threshold: Annotated[float | None, typer.Option(help="likewise for FFN neurons")] = None,
    merge_kv: Annotated[
        int | None, typer.Option(help="first average the key/value heads into so many")
    ] = None,
    merge: Annotated[
        str, typer.Option(help="aligned (heads are turned towards each other first) or mean")
    ] = "aligned",
    max_parameters: Annotated[
        int | None, typer.Option(help="remove heads and neurons down to so many parameters")
    ] = None,
    max_memory_mb: Annotated[
        float | None, typer.Option(help="... to so much memory on the target, KV cache included")
    ] = None,
    min_tok_s: Annotated[
        float | None,
        typer.Option(help="... to so many tokens a second on the target, as predicted"),
    ] = None,
    target: Target = None,
    criterion: Annotated[
        str, typer.Option(help="taylor, activation, norm, magnitude or random")
    ] = "taylor",
    compensate: Annotated[bool, typer.Option(help="refit what stays by least squares")] = True,
    sparsity: Annotated[
        str | None,
        typer.Option(help="2:4: zero two of every four inputs in what stays; see docs/sparsity.md"),
    ] = None,
    sparsity_method: Annotated[
        str, typer.Option(help="sparsegpt, or magnitude: the baseline to beat")
    ] = "sparsegpt",
    proof: Annotated[
        str,
        typer.Option(
            help="load the result whole (stock), by layers (streamed), or as memory allows"
        ),
    ] = "auto",
    activation_budget: ActivationBudget = 1.0,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="score, print what would go and what would be left, write nothing"
        ),
    ] = False,
    calibration: CalibrationSource = CALIBRATION,
    samples: Samples = 128,
    seq_len: SeqLen = 512,
    seed: Seed = 0,
    device: Device = "auto",
    fresh: Fresh = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Cut attention heads, key/value groups, FFN neurons, layers or experts, or zero half of what stays; stock transformers loads it.

    Every criterion but taylor goes layer by layer from disk, so that the model may be larger than memory.

    Examples:

        edgewright prune /models/Qwen2.5-0.5B --heads 0.25 --calibration text:wiki.txt --out pruned

        edgewright prune /models/Qwen2.5-0.5B --heads-threshold 0.5 --dry-run --target jetson-orin-nano-8gb

        edgewright prune /models/Qwen2.5-3B --min-tok-s 25 --target jetson-orin-nano-8gb --out pruned

        edgewright prune /models/Llama-2-7b --merge-kv 8 --out gqa

        edgewright prune /models/Qwen3-30B-A3B --experts 0.25 --criterion activation --out fewer

        edgewright prune /models/Qwen2.5-0.5B --sparsity 2:4 --calibration text:wiki.txt --out sparse
    """
    from ..compress.prune.options import PruneOptions
    from ..steps.context import Proof

    options = checked(
        PruneOptions,
        heads=heads,
        kv_heads=kv_heads,
        ffn=ffn,
        layers=layers,
        experts=experts,
        heads_threshold=heads_threshold,
        ffn_threshold=ffn_threshold,
        merge_kv=merge_kv,
        merge=merge,
        budget=_budget(max_parameters, max_memory_mb, min_tok_s),
        criterion=criterion,
        compensate=compensate,
        sparsity=sparsity,
        sparsity_method=sparsity_method,
    )
    data = (calibration, samples, seq_len, seed, device)
    if dry_run:
        return show_cut(options, model, data, target, as_json)
    if out is None:
        raise UsageError("--out is missing", "give the directory to make, or --dry-run")
    if proof not in get_args(Proof):
        raise UsageError(f"--proof {proof}: unknown", f"use {', '.join(get_args(Proof))}")
    run_prune(
        options,
        model,
        out,
        data,
        target,
        fresh,
        as_json,
        proof=proof,
        activation_budget=int(activation_budget * 2**30),
    )


def _budget(
    parameters: int | None, memory_mb: float | None, tok_s: float | None
) -> dict[str, float] | None:
    limits = {
        "parameters": parameters,
        "memory_bytes": memory_mb and int(memory_mb * 1e6),
        "decode_tok_s": tok_s,
    }
    return {name: limit for name, limit in limits.items() if limit is not None} or None


def traces(
    model: Model,
    out: Annotated[
        Path, typer.Option("--out", help="JSONL file to write; its report goes beside it")
    ],
    prompts: Annotated[
        str,
        typer.Option(
            help="questions with answers: builtin:reasoning, or jsonl:FILE of question and answer"
        ),
    ],
    limit: Annotated[int, typer.Option(help="questions at most")] = 1000,
    chains: Annotated[int, typer.Option(help="chains a question")] = 8,
    temperature: Annotated[float, typer.Option(help="of the sampling; 0: greedy")] = 0.7,
    top_p: Annotated[
        float, typer.Option(help="share of the probability that is sampled from")
    ] = 0.95,
    max_new_tokens: Annotated[int, typer.Option(help="longest chain that is written")] = 512,
    accept: Annotated[
        str,
        typer.Option(
            help="both: the vote elects the answer and the source confirms it; or majority, or verified"
        ),
    ] = "both",
    agreement: Annotated[
        float, typer.Option(help="share of a question's chains that must agree for a majority")
    ] = 0.5,
    keep: Annotated[int, typer.Option(help="chains a question at most, the most certain ones")] = 4,
    min_tokens: Annotated[int, typer.Option(help="shortest chain to keep")] = 0,
    max_tokens: Annotated[int | None, typer.Option(help="longest chain to keep")] = None,
    max_entropy: Annotated[
        float | None, typer.Option(help="highest mean entropy of a chain to keep, in nats a token")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    fresh: Fresh = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Let a teacher write chains of thought; keep those that the vote and the known answers bear out. Killed, the same command goes on.

    Examples:

        edgewright traces /models/teacher --prompts jsonl:gsm8k.jsonl --chains 8 --out traces.jsonl

        edgewright distill small --teacher none --data jsonl:traces.jsonl --out taught

        edgewright traces builtin:tiny-reasoner --prompts builtin:reasoning --limit 200 --max-new-tokens 144 --out traces.jsonl
    """
    from ..benchmarks.traces.traces import TracesOptions
    from ..pipeline.traces import run_traces

    options = checked(
        TracesOptions,
        prompts=prompts,
        limit=limit,
        chains=chains,
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        accept=accept,
        agreement=agreement,
        keep=keep,
        min_tokens=min_tokens,
        max_tokens=max_tokens,
        max_entropy=max_entropy,
    )
    with resumable():
        report = run_traces(options, model, out, seed, device, fresh)
    show(report, as_json, "traces")


def distill(
    student: Annotated[str, typer.Argument(help="the model that learns: a directory or hub id")],
    teacher: Annotated[
        str, typer.Option(help="the model that teaches; none: learn from the data alone")
    ],
    out: Out,
    data: Annotated[str, typer.Option(help="SOURCE to learn on")] = "builtin:reasoning",
    hidden_steps: Annotated[
        int | None,
        typer.Option(help="steps of hidden-state alignment; 100 with a teacher, else none"),
    ] = None,
    logit_steps: Annotated[
        int | None, typer.Option(help="steps of KL on the logits; 400 with a teacher, else none")
    ] = None,
    label_steps: Annotated[
        int | None,
        typer.Option(help="steps of cross-entropy with the data; 500 without a teacher, else none"),
    ] = None,
    lr: Lr = 1e-3,
    temperature: Annotated[float, typer.Option(help="of the divergence")] = 1.0,
    divergence: Annotated[
        str, typer.Option(help="of the logits: forward (KL from the teacher), reverse, or js")
    ] = "forward",
    hard: Annotated[
        float, typer.Option(help="share of cross-entropy with the data in the logits stage")
    ] = 0.0,
    attention: Attention = 0.0,
    on_policy: OnPolicy = 0.0,
    freeze: Freeze = None,
    early_stop: EarlyStop = 0,
    measure_every: MeasureEvery = 50,
    hold_out: HoldOut = 0,
    teacher_cache: Annotated[
        str | None,
        typer.Option(help="keep the teacher's largest logits here: made once, used by later runs"),
    ] = None,
    top_k: Annotated[int, typer.Option(help="logits a token that --teacher-cache keeps")] = 64,
    lora: Lora = 0,
    lora_alpha: LoraAlpha = None,
    lora_targets: LoraTargets = "",
    qat: Qat = 0,
    qat_group_size: QatGroupSize = 128,
    qat_sym: QatSym = True,
    scales_from: ScalesFrom = None,
    optimizer: Optimizer = "adamw",
    batch_size: Annotated[int, typer.Option(help="rows a step, of all processes together")] = 16,
    accumulate: Annotated[
        int, typer.Option(help="parts that a step's rows are taken in, which saves memory")
    ] = 1,
    checkpoint_layers: Annotated[
        bool, typer.Option("--checkpoint-layers", help="compute activations again: less memory")
    ] = False,
    bf16: Bf16 = None,
    tracker: TrackerName = None,
    save_every: Annotated[
        int,
        typer.Option(help="steps after which the state is kept, from which a killed run goes on"),
    ] = 100,
    seq_len: Annotated[int, typer.Option(help="tokens a row")] = 256,
    seed: Seed = 0,
    device: Device = "auto",
    fresh: Fresh = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Teach a smaller model (hidden states by MSE, then logits by KL), or let a pruned one recover on data alone.

    Examples:

        edgewright distill small --teacher /models/big --data jsonl:gsm8k.jsonl --out taught

        edgewright distill pruned --teacher none --lora 16 --label-steps 300 --data text:wiki.txt --out recovered

        edgewright distill model --teacher model --qat 4 --scales-from int4 --hidden-steps 0 --logit-steps 100 --lr 1e-4 --out int4-qat

        edgewright distill small --teacher /models/big --teacher-cache big-logits --data text:wiki.txt --out taught

        torchrun --nproc-per-node 4 -m edgewright.cli distill small --teacher /models/big --data text:wiki.txt --out taught
    """
    from ..compress.distill.options import DistillOptions

    if teacher_cache and hidden_steps is None:
        hidden_steps = 0  # it holds no hidden states
    own = {
        "hidden": {"attention": attention},
        "logits": {
            "temperature": temperature,
            "hard": hard,
            "divergence": divergence,
            "on_policy": on_policy,
        },
    }
    every = {
        "freeze": freeze or (),
        "early_stop": {"patience": early_stop, "every": measure_every} if early_stop else None,
    }
    steps = {"hidden": hidden_steps, "logits": logit_steps, "labels": label_steps}
    stages = _stages(teacher, lr, steps, own, **every)
    options = checked(
        DistillOptions,
        teacher=teacher,
        data=data,
        hold_out=hold_out,
        seq_len=seq_len,
        batch_size=batch_size,
        stages=stages,
        optimizer=optimizer,
        accumulate=accumulate,
        checkpoint_layers=checkpoint_layers,
        save_every=save_every,
        bf16=bf16,
        tracker=tracker,
        lora=_adapters(lora, lora_alpha, lora_targets),
        qat=_grid(qat, qat_group_size, qat_sym, scales_from),
        teacher_cache={"path": teacher_cache, "top_k": top_k} if teacher_cache else None,
    )
    run_step("distill", options, student, out, (data, 128, seq_len, seed, device), fresh, as_json)


def _stages(
    teacher: str,
    lr: float,
    steps: dict[str, int | None],
    own: dict[str, dict[str, Any]] | None = None,
    **every: Any,
) -> list[dict[str, Any]]:
    """The stages with their steps, in order; those that were not given are what is usual with a teacher, or without."""
    usual = {"labels": 500} if teacher == "none" else {"hidden": 100, "logits": 400}
    counts = {loss: usual.get(loss, 0) if count is None else count for loss, count in steps.items()}
    return [
        {"loss": loss, "steps": count, "lr": lr, **every, **(own or {}).get(loss, {})}
        for loss, count in counts.items()
        if count
    ]


def _adapters(rank: int, alpha: int | None, targets: str) -> dict[str, Any] | None:
    if not rank and (alpha or targets):
        raise UsageError(
            "--lora-alpha and --lora-targets say how adapters are, and there are none",
            "give their rank: --lora 16",
        )
    asked = {"r": rank, "alpha": alpha, "targets": targets.split(",") if targets else None}
    return {name: value for name, value in asked.items() if value is not None} if rank else None


def _grid(bits: int, group_size: int, sym: bool, scales_from: str | None) -> dict[str, Any] | None:
    if not bits and scales_from:
        raise UsageError(
            "--scales-from says where quantization-aware learning starts, and there is none",
            "give its bits: --qat 4",
        )
    return (
        {"bits": bits, "group_size": group_size, "sym": sym, "scales_from": scales_from}
        if bits
        else None
    )


def iterate(
    model: Model,
    out: Out,
    rounds: Annotated[int, typer.Option(help="how many; the cut is spread over them")] = 3,
    heads: Annotated[
        float, typer.Option(help="share of query heads to remove, all rounds together")
    ] = 0.0,
    ffn: Annotated[
        float, typer.Option(help="share of FFN neurons to remove, all rounds together")
    ] = 0.0,
    layers: Annotated[int, typer.Option(help="layers to remove, all rounds together")] = 0,
    criterion: Annotated[
        str, typer.Option(help="taylor, activation, norm, magnitude or random")
    ] = "taylor",
    sparsity: Annotated[
        str | None, typer.Option(help="2:4: make the last round's model sparse")
    ] = None,
    max_loss_increase: Annotated[
        float | None,
        typer.Option(
            help="keep the smallest model whose held-out loss rose by no more, in nats a token; default: the last"
        ),
    ] = None,
    held_out: Annotated[
        str | None, typer.Option(help="SOURCE to measure on; default: rows of --data, kept back")
    ] = None,
    held_out_rows: Annotated[int, typer.Option(help="how many rows to measure on")] = 128,
    teacher: Annotated[
        str, typer.Option(help="input: the uncut model; another model; or none")
    ] = "input",
    data: Annotated[str, typer.Option(help="SOURCE to learn on")] = "builtin:reasoning",
    hidden_steps: Annotated[
        int | None, typer.Option(help="a round; 100 with a teacher, else none")
    ] = None,
    logit_steps: Annotated[
        int | None, typer.Option(help="a round; 400 with a teacher, else none")
    ] = None,
    label_steps: Annotated[
        int | None, typer.Option(help="a round; 500 without a teacher, else none")
    ] = None,
    lr: Lr = 1e-3,
    lora: Lora = 0,
    optimizer: Optimizer = "adamw",
    batch_size: Annotated[int, typer.Option(help="rows a step")] = 16,
    calibration: CalibrationSource = CALIBRATION,
    samples: Samples = 128,
    seq_len: Annotated[
        int, typer.Option(help="tokens a row, to calibrate, learn and measure on")
    ] = 256,
    seed: Seed = 0,
    device: Device = "auto",
    fresh: Fresh = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Prune a little, recover, measure on held-out rows, and again; keep the smallest model that is still good enough.

    Example:

        edgewright iterate /models/Qwen2.5-0.5B --rounds 4 --ffn 0.5 --data text:wiki.txt --max-loss-increase 0.1 --out small
    """
    from ..compress.iterate.options import IterateOptions

    cut = {
        "heads": heads,
        "ffn": ffn,
        "layers": layers,
        "criterion": criterion,
        "sparsity": sparsity,
    }
    stages = _stages(
        teacher, lr, {"hidden": hidden_steps, "logits": logit_steps, "labels": label_steps}
    )
    recover = {
        "teacher": teacher,
        "data": data,
        "seq_len": seq_len,
        "batch_size": batch_size,
        "stages": stages,
        "optimizer": optimizer,
        "lora": _adapters(lora, None, ""),
    }
    options = checked(
        IterateOptions,
        rounds=rounds,
        prune=cut,
        recover=recover,
        held_out=held_out,
        held_out_rows=held_out_rows,
        max_loss_increase=max_loss_increase,
    )
    run_step(
        "iterate",
        options,
        model,
        out,
        (calibration, samples, seq_len, seed, device),
        fresh,
        as_json,
    )


def quantize(
    model: Model,
    out: Out,
    method: Annotated[
        str,
        typer.Option(
            help="gptq, awq, int8, smoothquant, or rtn: plain rounding, the baseline to beat"
        ),
    ] = "gptq",
    bits: Annotated[
        int | None,
        typer.Option(help="2, 3, 4 or 8; int8 and smoothquant: always 8", show_default="4"),
    ] = None,
    group_size: Annotated[
        int | None,
        typer.Option(
            help="input channels a scale: 32, 64, 128, or -1 for all; int8, smoothquant: all",
            show_default="128",
        ),
    ] = None,
    sym: Annotated[
        bool, typer.Option("--sym/--asym", help="zero point in the middle, as Jetson kernels need")
    ] = True,
    act_order: Annotated[
        str, typer.Option(help="static, permuted (a g_idx a layer: desc_act) or none")
    ] = "static",
    scaling: Annotated[
        str | None,
        typer.Option(
            help="folded in before rounding: none, awq or smoothquant; default: the method's own"
        ),
    ] = None,
    alpha: Annotated[
        float,
        typer.Option(help="SmoothQuant: how much of the activations' range moves to the weights"),
    ] = 0.5,
    layout: Annotated[
        str | None,
        typer.Option(
            "--format", help="layout of packed weights: gptq or awq; default: the method's own"
        ),
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            help="'PATTERN=BITS', 'PATTERN=BITS:GROUP' or 'PATTERN=skip' for full module names; repeatable"
        ),
    ] = None,
    sensitivity: Annotated[
        float | None,
        typer.Option(help="bytes, or below 1 a share, to keep what suffers most at 8 bit"),
    ] = None,
    head_bits: Annotated[
        int | None, typer.Option(help="quantize the head too; a tied one is the embedding")
    ] = None,
    embedding_bits: Annotated[int | None, typer.Option(help="quantize the embedding too")] = None,
    bf16: Bf16 = None,
    activation_budget: ActivationBudget = 1.0,
    calibration: CalibrationSource = CALIBRATION,
    samples: Samples = 128,
    seq_len: SeqLen = 512,
    seed: Seed = 0,
    device: Device = "auto",
    fresh: Fresh = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Quantize the linear layers and write them packed: 4-bit weights, or weights and activations in 8 bits.

    gptq and awq write the layouts of these names, which transformers and vLLM read; int8 (activations on a scale a token)
    writes compressed-tensors for vLLM; smoothquant (fixed activation scales) what TensorRT-Edge-LLM reads. Killed, the same command
    goes on at its layer.

    Examples:

        edgewright quantize /models/Qwen2.5-0.5B --method gptq --calibration text:wiki.txt --out int4

        edgewright quantize /models/Qwen2.5-0.5B --method gptq --scaling awq --format awq --calibration text:wiki.txt --out both

        edgewright quantize /models/Qwen2.5-0.5B --method smoothquant --alpha 0.6 --calibration text:wiki.txt --out sq

        edgewright quantize /models/Qwen2.5-0.5B --rule '*.down_proj=8' --rule 'model.layers.0.*=skip' --out mixed

        edgewright quantize /models/Qwen2.5-0.5B --sensitivity 0.05 --out better

        edgewright quantize /models/gemma-3-270m --head-bits 8 --out small-head

        edgewright quantize /models/Qwen3-30B-A3B --calibration text:wiki.txt --activation-budget 4 --out experts
    """
    from ..compress.quantize.options import QuantizeOptions
    from ..compress.quantize.rules import parsed_rule

    given = {"bits": bits, "group_size": group_size, "scaling": scaling, "format": layout}
    options = checked(
        QuantizeOptions,
        method=method,
        sym=sym,
        act_order=act_order,
        alpha=alpha,
        rules=[parsed_rule(text) for text in rule or ()],
        head_bits=head_bits,
        embedding_bits=embedding_bits,
        bf16=bf16,
        sensitivity=None if sensitivity is None else {"budget": sensitivity},
        **{name: value for name, value in given.items() if value is not None},
    )
    data = (calibration, samples, seq_len, seed, device)
    run_step(
        "quantize",
        options,
        model,
        out,
        data,
        fresh,
        as_json,
        activation_budget=int(activation_budget * 2**30),
    )
