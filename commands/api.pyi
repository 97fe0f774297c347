"""The types of the Python API. Made by `python -m edgewright.docs.write_all`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from .results import GateResult, Measurement, Plan, Run, StepResult

__all__: list[str]
_Values: TypeAlias = str | Sequence[str] | Sequence[int] | Sequence[float]

def bench(
    path: str | Path,
    *,
    tasks: _Values = (),
    limit: int = 200,
    max_new_tokens: int = 160,
    shots: int | None = None,
    allow_code: bool = False,
    dtype: Literal['auto', 'float32', 'bfloat16', 'float16'] = 'auto',
    llama_server: str = '',
    perplexity: _Values | None = (),
    bad_rows: Literal['refuse', 'skip'] = 'refuse',
    windows: int = 128,
    seq_len: int = 512,
    latency: bool = False,
    prompt: int = 64,
    new_tokens: int = 64,
    runs: int = 5,
    batches: _Values = (),
    prompts: _Values = (),
    context: _Values = (2048,),
    concurrency: _Values = (),
    request_rate: _Values = (),
    requests: int | None = None,
    warm_up: int | None = None,
    prompt_tokens: int = 64,
    output_tokens: int = 64,
    api: Literal['completions', 'chat'] | None = None,
    served_model: str | None = None,
    tokenizer: str | Path | None = None,
    api_key_variable: str = 'EDGEWRIGHT_API_KEY',
    request_seconds: float = 120,
    retries: int = 4,
    time_limit: float = 900,
    seed: int = 0,
    reference: str | Path | None = None,
    against: str | Path | None = None,
    save: str | Path | None = None,
    device: Literal['auto', 'cpu', 'cuda'] = 'auto',
    memory_check: bool = True,
) -> Measurement:
    """Measure accuracy, perplexity and latency of a model, or tasks and latency of a server.

    Args:
        tasks: tasks to score: reasoning, gym:NAME, qa:FILE, choice:FILE, code:FILE, lm-eval:NAME or lm-eval:FILE.yaml; qa, choice and code take a JSONL file, parquet:FILE or hf:NAME[:CONFIG][:SPLIT], with [START:STOP] behind it for a part of its rows
        limit: problems per task
        max_new_tokens: longest answer in tokens, thinking included; lm-eval tasks set their own
        shots: worked examples in the prompt of qa, choice and lm-eval tasks; default: the task's own number
        allow_code: let code tasks run what the model writes, in a sandbox
        dtype: what torch computes answers in; auto: the checkpoint's 16 bits where the processor is fast with them, else float32; texts are always scored in float32
        llama_server: llama.cpp's llama-server, which runs GGUF artifacts; default: on PATH
        perplexity: SOURCE to compute the perplexity of; repeatable
        bad_rows: what to do with a row of data that has something else where text belongs: refuse the data, or skip the row and count it
        windows: rows per perplexity source
        seq_len: longest row in tokens
        latency: measure latency and memory in a process of its own; in a recipe, null switches it off
        prompt: tokens of the prompt that is timed
        new_tokens: tokens that are decoded after it
        runs: timed repetitions, after as many as it takes until times are stable
        batches: also time batches of these numbers of prompts
        prompts: also time prompts of these lengths
        context: context lengths to state the size of a KV cache for, in fp16 or as the artifact has it
        concurrency: of a URL: requests at the same time, one load for each number; the next request is sent when one ends. Default: 1,4,16, unless --request-rate is given. --tasks are asked with the largest; default: 4
        request_rate: of a URL: requests that arrive in a second, at random intervals (Poisson), one load for each number; inf: all at once
        requests: of a URL: requests of each load; default: twice the concurrency, 10 at least
        warm_up: of a URL: requests before each load that are not counted; default: the concurrency, and 1 before a request rate
        prompt_tokens: of a URL: tokens of each prompt
        output_tokens: of a URL: tokens that each request asks for; where the server accepts ignore_eos, exactly as many are generated
        api: of a URL: which of OpenAI's interfaces to use; default: chat for --tasks, completions for --latency
        served_model: of a URL: model to ask for; default: the first that it lists
        tokenizer: of a URL: directory with the served model's tokenizer, for prompts of an exact length and for counting answers, and for --tasks with --api completions, whose prompts are then made here; default: the server's own counts
        api_key_variable: of a URL: environment variable with the server's API key, if it needs one
        request_seconds: of a URL: a request that takes longer has failed
        retries: of a URL: how often a request of --tasks is sent again after a failure that may pass: no answer, too busy, an error of the server
        time_limit: of a URL: seconds after which the measurement ends; requests that are still running then have failed
        seed: seed of all random numbers
        reference: model to compare outputs with: KL divergence and top-1 agreement
        against: model to time in turns with this one; gives the ratio and its interval
        save: write the measurement as JSON, for `edgewright gate`, and the answers to tasks beside it (NAME.answers.jsonl)
        device: where torch runs; auto: CUDA if there is a GPU, else the CPU
        memory_check: refuse work that is predicted to need more memory than is free, before it begins
    """

def distill(
    student: str | Path,
    *,
    out: str | Path,
    fresh: bool = False,
    teacher: str | Path,
    data: str | Path = 'auto',
    bad_rows: Literal['refuse', 'skip'] = 'refuse',
    hold_out: int = 0,
    seq_len: int = 256,
    batch_size: int = 16,
    teacher_cache: str | Path | None = None,
    top_k: int = 64,
    hidden_steps: int | None = None,
    logit_steps: int | None = None,
    label_steps: int | None = None,
    lr: float = 0.001,
    divergence: Literal['forward', 'reverse', 'js'] = 'forward',
    temperature: float = 1.0,
    hard: float = 0.0,
    on_policy: float = 0.0,
    align_layers: _Values | None = (),
    attention: float = 0.0,
    freeze: _Values | None = (),
    early_stop: int = 0,
    measure_every: int = 50,
    lora: int = 0,
    lora_alpha: int = 32,
    lora_targets: _Values = (),
    qat: int = 0,
    qat_group_size: int = 128,
    qat_sym: bool = True,
    scales_from: str | Path | None = None,
    optimizer: Literal['adamw', 'muon'] = 'adamw',
    accumulate: int = 1,
    checkpoint_layers: bool = False,
    save_every: int = 100,
    tracker: Literal['tensorboard', 'trackio', 'wandb'] | None = None,
    bf16: bool | None = None,
    seed: int = 0,
    device: Literal['auto', 'cpu', 'cuda'] = 'auto',
    memory_check: bool = True,
    stages: Sequence[Mapping[str, Any]] | None = None,
) -> StepResult:
    """Train a smaller model on a larger one, or a pruned model on data alone.

    A student with a teacher first learns its hidden states (mean squared error), then its logits (KL divergence). With --teacher none it learns from the data alone. Run the same command again to resume after an interruption.

    Args:
        out: directory to create
        fresh: redo everything, reuse no earlier result
        teacher: the model that teaches: a step's name, a directory or a hub id; none: train on the data alone
        data: SOURCE to train on; auto: for the built-in model its task (builtin:reasoning), for others it must be given
        bad_rows: what to do with a row of data that has something else where text belongs: refuse the data, or skip the row and count it
        hold_out: rows at the end reserved for evaluation; of built-in data, rows of another seed
        seq_len: tokens per row of training data
        batch_size: rows per optimizer step, all processes together
        teacher_cache: keep the teacher's largest logits on disk, for this run and later ones, so that the teacher need not be in memory beside the student; directory; created if it does not exist, completed if rows are missing
        top_k: largest logits that are kept per token; all of them from the size of the vocabulary on
        hidden_steps: steps of the hidden stage (hidden states); default: 100 with a teacher, 0 without one or with --teacher-cache
        logit_steps: steps of the logits stage (KL divergence); default: 400 with a teacher, 0 without
        label_steps: steps of the labels stage (cross-entropy with the data); default: 500 without a teacher, 0 with one
        lr: peak learning rate, which decays to zero (cosine)
        divergence: divergence in the logits stage; forward: KL from the teacher; reverse: KL from the student; js: Jensen-Shannon
        temperature: temperature of the divergence in the logits stage
        hard: weight of cross-entropy with the data in the logits stage
        on_policy: share of rows in the logits stage that the student continues itself, for the teacher to judge
        align_layers: pairs of student and teacher layers to align in the hidden stage, counted from 1; default: spread evenly over the depth
        attention: weight of the divergence of attention maps in the hidden stage, beside the hidden states of the same layers
        freeze: name patterns of parameters that are not trained, such as `model.embed*`
        early_stop: end a stage when the loss on held-out rows stops falling, and keep the weights of the lowest loss; measurements without a new lowest loss before the stage ends; 0: off
        measure_every: steps between two measurements of the held-out loss
        lora: train low-rank adapters (LoRA) and merge them at the end, instead of training all weights; rank of the adapters; 0: off
        lora_alpha: LoRA alpha; adapters are scaled by alpha / rank
        lora_targets: matrices of a decoder layer that get adapters; default: queries and values
        qat: train with fake-quantized weights (QAT) and write them quantized; bits per weight; 0: off
        qat_group_size: input channels that share a scale: 32, 64, 128, or -1 for all
        qat_sym: zero point in the middle of the range, as Jetson kernels need
        scales_from: quantized checkpoint of the same student, or the step that made it, to start from; default: round to nearest
        optimizer: muon: orthogonalized steps for matrices, which needs fewer steps for the same loss, and AdamW for the rest
        accumulate: parts that a batch is split into, one after the other, to save memory
        checkpoint_layers: compute activations again in the backward pass, to save memory
        save_every: steps between two saves of the state that an interrupted run resumes from
        tracker: write training curves for this tool to a folder beside the output; nothing is sent
        bf16: matrix products in bfloat16; default: if the processor supports it
        seed: seed of all random numbers
        device: where torch runs; auto: CUDA if there is a GPU, else the CPU
        memory_check: refuse work that is predicted to need more memory than is free, before it begins
    """

def export(
    model: str | Path,
    *,
    out: str | Path,
    fresh: bool = False,
    format: Literal['onnx', 'ort', 'tensorrt', 'edge-llm', 'gguf', 'triton'] = 'onnx',
    precision: Literal['fp32', 'fp16', 'bf16', 'int8', 'int4', 'int4-a8', 'int8-dynamic'] = 'fp32',
    logits: Literal['all', 'last'] = 'all',
    pack_head: bool = True,
    kv_cache: Literal['float', 'int8'] = 'float',
    window: int = 0,
    sinks: int = 4,
    calibration: str | Path = 'auto',
    seq_len: int = 512,
    bad_rows: Literal['refuse', 'skip'] = 'refuse',
    seed: int = 0,
    device: Literal['auto', 'cpu', 'cuda'] = 'auto',
    memory_check: bool = True,
) -> StepResult:
    """Export a model, and check that it computes what the torch model does. Exit code 4 if not.

    Args:
        out: directory to create
        fresh: redo everything, reuse no earlier result
        format: onnx: ONNX with standard operators only and a KV cache; ort: ONNX with ONNX Runtime's own operators; tensorrt: as onnx, checked by TensorRT; edge-llm: what TensorRT-Edge-LLM's exporter reads; gguf: for llama.cpp; triton: as onnx, in a Triton model repository; see docs/runtimes
        precision: bf16: formats onnx and tensorrt only; int4: of a GPTQ or AWQ checkpoint, bit for bit; int8: of a SmoothQuant checkpoint; int8-dynamic: for ONNX Runtime on CPUs; int4-a8: int4 with inputs rounded to 8 bits, less exact, format ort only
        logits: positions that get logits; last: only the last one, which is enough to generate text
        pack_head: round an embedding and a head that the checkpoint stores in floating point to 8 bits, rows of rare tokens to 4; formats ort with precision int4 or int4-a8, others leave them as they are
        kv_cache: how keys and values are cached; int8: with scales from the calibration text, one byte a number; formats onnx, ort and tensorrt only, without a window
        window: positions that the KV cache keeps beside the sinks; 0: all; formats onnx and tensorrt only
        sinks: first positions that a windowed KV cache always keeps
        calibration: SOURCE to calibrate on: text:FILE, jsonl:FILE[:FIELD], parquet:FILE[:FIELD], hf:NAME[:CONFIG][:SPLIT][:FIELD] or builtin:NAME; [START:STOP] behind a jsonl, parquet or hf source reads only these rows, e.g. [-1000:]; auto: the model's own answers to built-in prompts (builtin:own), and for the built-in model its task (builtin:reasoning)
        seq_len: tokens per calibration row
        bad_rows: what to do with a row of data that has something else where text belongs: refuse the data, or skip the row and count it
        seed: seed of all random numbers
        device: where torch runs; auto: CUDA if there is a GPU, else the CPU
        memory_check: refuse work that is predicted to need more memory than is free, before it begins
    """

def gate(
    candidate: str | Path,
    *,
    baseline: str | Path,
    policy: str | Path | None = None,
    junit: str | Path | None = None,
    markdown: str | Path | None = None,
    badge: str | Path | None = None,
    comment: str | None = None,
    update_baseline: bool = False,
) -> GateResult:
    """Compare a candidate with a baseline. Exit code 5 if a limit of the policy is violated.

    Accuracies and perplexities are decided on paired bootstrap intervals: pass, fail or inconclusive. The policy's `inconclusive: pass|warn|fail` sets what inconclusive does to the exit code; the default, warn, gives 0 and prints a warning.

    Args:
        baseline: measurement file, or RUN:STEP
        policy: YAML file: confidence, inconclusive, and limits: metric -> {min_ratio, max_ratio, max_drop, min, max}
        junit: also write JUnit XML to this file, for a CI server
        markdown: also write Markdown to this file, for a pull request
        badge: also write a badge to this file: a picture (.svg), or JSON for shields.io (.json)
        comment: in a CI job of GitHub or GitLab, write the result to the pull request as the comment of this NAME, or replace it; the token is GITHUB_TOKEN or GITLAB_TOKEN
        update_baseline: compare nothing; replace the BASELINE file by the candidate
    """

def plan(
    what: str | Path,
    *,
    target: str | Path | None = None,
    set: _Values | None = (),
    draft: str | Path | None = None,
    draft_tokens: int | None = None,
    draft_agreement: float | None = None,
    context: int = 2048,
    batch: int = 1,
    kv_cache: Literal['float', 'int8'] | None = None,
    precision: Literal['fp16', 'int8', 'int4'] | None = None,
) -> Plan:
    """Predict what a recipe or a model needs, and how fast a device will run it.

    Only config.json is read, also of a hub id. Exit code 3 if the device cannot run what a step of the recipe makes, or can run the model in no precision.

    Args:
        target: device, by name or profile file; see `edgewright targets`
        set: KEY=VALUE: change an option of the recipe, such as model=DIR or steps.prune.heads=0.5; repeatable
        draft: smaller model with the same tokenizer, such as a distilled student; predicts the speed with its proposals
        draft_tokens: tokens that the draft proposes in a round; default: the fastest number up to 8
        draft_agreement: share of the draft's tokens that the model agrees with, such as top1_agreement of `bench DRAFT --reference MODEL`; default: 0.7 is assumed
        context: tokens in the KV cache on the device
        batch: sequences that the device processes at a time
        kv_cache: how keys and values are cached, as of `export`; default: as the artifact or the recipe says, else float
        precision: plan a model in this precision only; exit code 3 if the device cannot run it so; default: every one that it can be exported in
    """

def prune(
    model: str | Path,
    *,
    out: str | Path | None = None,
    dry_run: bool = False,
    fresh: bool = False,
    heads: float = 0.0,
    kv_heads: float = 0.0,
    ffn: float = 0.0,
    layers: int = 0,
    experts: float = 0.0,
    heads_threshold: float | None = None,
    ffn_threshold: float | None = None,
    max_parameters: int | None = None,
    max_memory_mb: float | None = None,
    min_tok_s: float | None = None,
    budget_over: _Values = ('heads', 'ffn'),
    budget_precision: str = 'int4',
    budget_context: int = 2048,
    merge_kv: int | None = None,
    merge: Literal['aligned', 'mean'] = 'aligned',
    criterion: Literal['taylor', 'activation', 'norm', 'magnitude', 'random'] = 'taylor',
    compensate: bool = True,
    sparsity: Literal['2:4'] | None = None,
    sparsity_method: Literal['sparsegpt', 'magnitude'] = 'sparsegpt',
    target: str | Path | None = None,
    proof: Literal['auto', 'stock', 'streamed'] = 'auto',
    activation_budget: float = 1.0,
    calibration: str | Path = 'auto',
    samples: int = 128,
    seq_len: int = 512,
    bad_rows: Literal['refuse', 'skip'] = 'refuse',
    seed: int = 0,
    device: Literal['auto', 'cpu', 'cuda'] = 'auto',
    memory_check: bool = True,
    budget: Mapping[str, Any] | None = None,
) -> StepResult:
    """Remove attention heads, key/value groups, FFN neurons, layers or experts.

    It can also set half of the remaining weights to zero (2:4 sparsity). Stock transformers loads the result. Every criterion but taylor reads the model layer by layer from disk, so the model may be larger than memory.

    Args:
        out: directory to create; not needed with --dry-run
        dry_run: show what would be removed and what would remain; write nothing
        fresh: redo everything, reuse no earlier result
        heads: share of query heads to remove from every key/value group
        kv_heads: share of key/value heads to remove, each with its query heads
        ffn: share of FFN neurons to remove
        layers: number of layers to remove, those of least block influence first
        experts: share of experts to remove from every mixture-of-experts layer
        heads_threshold: remove the share of heads whose importance is below this times the mean of their layer
        ffn_threshold: remove the share of FFN neurons whose importance is below this times the mean of their layer
        max_parameters: remove heads and FFN neurons until at most this many parameters are left
        max_memory_mb: remove heads and FFN neurons until the model takes at most this much memory on the target, KV cache included
        min_tok_s: remove heads and FFN neurons until the target is predicted to generate at least this many tokens per second
        budget_over: what the budget may remove
        budget_precision: precision in which the device will run the model
        budget_context: tokens in the KV cache on the device
        merge_kv: before pruning, average the key/value heads into this many (MHA to GQA)
        merge: how key/value heads are averaged; aligned: rotate them towards each other first; mean: as they are
        criterion: measure of importance; taylor: effect on the loss, by its gradient; activation: output weights times the norms of their inputs; norm: norm of the output; magnitude: norm of the weights alone; random: chance, as a baseline. Experts are ranked by use and output, unless random
        compensate: refit the remaining weights by least squares, to replace what was removed
        sparsity: after pruning, set two of every four weights in a row to zero; see docs/sparsity.md
        sparsity_method: how these two weights are chosen; magnitude is the baseline to beat
        target: device, by name or profile file; see `edgewright targets`
        proof: how a pruned model is verified: loaded whole (stock), layer by layer (streamed), or as memory allows (auto)
        activation_budget: GiB of hidden states kept in memory; the rest goes to disk
        calibration: SOURCE to calibrate on: text:FILE, jsonl:FILE[:FIELD], parquet:FILE[:FIELD], hf:NAME[:CONFIG][:SPLIT][:FIELD] or builtin:NAME; [START:STOP] behind a jsonl, parquet or hf source reads only these rows, e.g. [-1000:]; auto: the model's own answers to built-in prompts (builtin:own), and for the built-in model its task (builtin:reasoning)
        samples: calibration rows
        seq_len: tokens per calibration row
        bad_rows: what to do with a row of data that has something else where text belongs: refuse the data, or skip the row and count it
        seed: seed of all random numbers
        device: where torch runs; auto: CUDA if there is a GPU, else the CPU
        memory_check: refuse work that is predicted to need more memory than is free, before it begins
    """

def quantize(
    model: str | Path,
    *,
    out: str | Path,
    fresh: bool = False,
    method: Literal['gptq', 'mixed', 'rtn', 'awq', 'int8', 'smoothquant'] = 'gptq',
    bits: int = 4,
    kv_bits: int | None = None,
    group_size: int = 128,
    sym: bool = True,
    act_order: Literal['static', 'permuted', 'none'] = 'static',
    damp: float = 0.005,
    refine: int = 1,
    scaling: Literal['none', 'awq', 'smoothquant'] = 'none',
    alpha: float = 0.5,
    format: Literal['gptq', 'awq', 'compressed-tensors', 'modelopt'] = 'gptq',
    rule: _Values | None = (),
    head_bits: int | None = None,
    embedding_bits: int | None = None,
    hessian_tokens: int = 8,
    bf16: bool | None = None,
    sensitivity: float | None = None,
    sensitivity_keep_bits: int = 8,
    activation_budget: float = 1.0,
    calibration: str | Path = 'auto',
    samples: int = 128,
    seq_len: int = 512,
    bad_rows: Literal['refuse', 'skip'] = 'refuse',
    seed: int = 0,
    device: Literal['auto', 'cpu', 'cuda'] = 'auto',
    memory_check: bool = True,
    rules: Sequence[Mapping[str, Any]] | None = None,
) -> StepResult:
    """Quantize the linear layers: 4-bit weights, or weights and activations in 8 bits.

    gptq and awq write the layouts of these names, which transformers and vLLM read. int8 writes compressed-tensors for vLLM. smoothquant writes what TensorRT-Edge-LLM reads. Run the same command again to resume after an interruption.

    Args:
        out: directory to create
        fresh: redo everything, reuse no earlier result
        method: gptq: rounding that compensates its error; mixed: gptq with keys and values in 8 bits, zero points and groups of 64, which keeps more and suits ONNX Runtime and GGUF, but not TensorRT, vLLM or transformers; awq: scaling and clipping by activations; int8: weights and activations in 8 bits, one activation scale per token; smoothquant: the same with activation scales fixed from calibration data; rtn: round to nearest, the baseline to beat
        bits: bits per weight; int8 and smoothquant: always 8
        kv_bits: bits of the key and value projections; method mixed: 8; default: as the others. Where query heads share them they are few weights, and their errors count most
        group_size: input channels that share a scale: 32, 64, 128, or -1 for all; int8 and smoothquant: always all
        sym: zero point in the middle of the range, as Jetson kernels need
        act_order: whether GPTQ starts with the columns of largest activations; static: yes, groups stay consecutive channels; permuted: yes, groups follow the order and every layer has a g_idx that kernels gather by (desc_act); none: columns in their own order
        damp: GPTQ: share of the mean Hessian diagonal added to it
        refine: GPTQ: rounds of improving scales and integers in turn afterwards; 0: GPTQ as in the paper
        scaling: scales that are folded into the preceding layer before rounding; method awq: awq, int8 and smoothquant: smoothquant, if not given
        alpha: SmoothQuant: how much of the activations' range moves to the weights
        format: layout of packed weights on disk; method awq: awq, int8: compressed-tensors, smoothquant: modelopt, if not given
        rule: other bits or groups for linear layers by name, or none: 'PATTERN=BITS', 'PATTERN=BITS:GROUP' or 'PATTERN=skip'; the first match counts
        head_bits: quantize the output head to this many bits; a tied head is the embedding
        embedding_bits: quantize the embedding to this many bits
        hessian_tokens: GPTQ: calibration tokens per input channel that its Hessian is made of, drawn at random; more take longer
        bf16: run calibration rows in bfloat16; default: if the processor supports it
        sensitivity: measure the error of each matrix first, and keep the worst at more bits; bytes that these matrices may take in addition; below 1: a share of all quantized matrices
        sensitivity_keep_bits: bits of the matrices that suffer most
        activation_budget: GiB of hidden states kept in memory; the rest goes to disk
        calibration: SOURCE to calibrate on: text:FILE, jsonl:FILE[:FIELD], parquet:FILE[:FIELD], hf:NAME[:CONFIG][:SPLIT][:FIELD] or builtin:NAME; [START:STOP] behind a jsonl, parquet or hf source reads only these rows, e.g. [-1000:]; auto: the model's own answers to built-in prompts (builtin:own), and for the built-in model its task (builtin:reasoning)
        samples: calibration rows
        seq_len: tokens per calibration row
        bad_rows: what to do with a row of data that has something else where text belongs: refuse the data, or skip the row and count it
        seed: seed of all random numbers
        device: where torch runs; auto: CUDA if there is a GPU, else the CPU
        memory_check: refuse work that is predicted to need more memory than is free, before it begins
    """

def run(
    recipe: str | Path,
    *,
    set: _Values | None = (),
    out: str | Path | None = None,
    dry_run: bool = False,
    fresh: bool = False,
) -> Run:
    """Run a recipe: make every step, measure it, and record it in the ledger.

    Run the same command again to resume after an interruption.

    Args:
        set: KEY=VALUE: change an option of the recipe, such as model=DIR or steps.prune.heads=0.5; repeatable
        out: directory of the run; default: runs/NAME
        dry_run: print the plan and stop
        fresh: redo everything, reuse no earlier result
    """
