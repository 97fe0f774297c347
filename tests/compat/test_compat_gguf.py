"""llama.cpp loads our GGUF files, makes the same tokens of a text, and continues it as torch."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf_models import GGUF, TEXTS, sentencepiece_tokenizer
from safetensors.torch import load_file, save_file

from edgewright.checkpoints.config import BUILTIN_MODEL, model_path
from edgewright.checkpoints.loading import load_model
from edgewright.checkpoints.tokenizer import load_tokenizer
from edgewright.compress.prune.options import PruneOptions
from edgewright.compress.prune.runner import prune
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.export.options import ExportOptions
from edgewright.export.runner import export
from edgewright.steps.context import CalibrationData, StepContext

from test_compat import environment  # isort: skip

pytestmark = pytest.mark.compat
CONTEXT = StepContext(CalibrationData(samples=8, seq_len=64))
PROMPT = torch.randint(5, 500, (48,), generator=torch.Generator().manual_seed(3)).tolist()
"""Longer than the windows of 16."""
LIMIT = 0.05
"""Of the spread of the logits; llama.cpp rounds activations and the KV cache to fp16."""
READER = """
import json, sys, urllib.request
import xllamacpp
job = json.load(sys.stdin)
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel = job["file"], 256, 1
params.warmup, params.port = False, 0
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
def ask(path, body):
    head = {"Content-Type": "application/json"}
    data = json.dumps(body).encode()
    request = urllib.request.Request(server.listening_address + path, data, head)
    return json.load(urllib.request.urlopen(request))
flags = {"add_special": True, "parse_special": True}
tokens = [ask("/tokenize", {"content": text, **flags})["tokens"] for text in job["texts"]]
ids, made, logs = list(job["ids"]), [], []
for _ in range(job["count"]):
    # The server reports probabilities of whole letters only. The bias makes it choose one; the
    # probabilities are those before it.
    bias = [[job["plain"], 10000.0]]
    body = {"prompt": ids, "n_predict": 1, "temperature": 0, "n_probs": 1024, "logit_bias": bias}
    (step,) = ask("/completion", body)["completion_probabilities"]
    found = {top["id"]: top["logprob"] for top in step["top_logprobs"]}
    logs.append([found[index] for index in range(len(found))])
    made.append(max(found, key=found.get))
    ids.append(made[-1])
print(json.dumps({"tokens": tokens, "made": made, "logs": logs}))
"""


def read_by_llama_cpp(folder: Path, ids: list[int], count: int = 8) -> dict[str, Any]:
    """Tokens of `TEXTS`, and the greedy tokens behind `ids` with all log probabilities."""
    job = {"file": str(folder / "model.gguf"), "texts": TEXTS, "ids": ids, "count": count}
    plain = load_tokenizer(folder).encode("a", add_special_tokens=False)[-1]
    done = subprocess.run(
        [str(environment("llama")), "-c", READER],
        input=json.dumps({**job, "plain": plain}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def compare(source: Path, folder: Path, limit: float = LIMIT, ids: list[int] = PROMPT) -> None:
    """Check tokens of texts, log probabilities, and that greedy tokens are torch's."""
    found = read_by_llama_cpp(folder, ids)
    tokenizer = load_tokenizer(source)
    assert found["tokens"] == [tokenizer.encode(text) for text in TEXTS]
    with torch.no_grad():
        whole = torch.tensor([ids + found["made"]])
        logits = load_model(source)(input_ids=whole).logits[0, len(ids) - 1 : -1].float()
    ours = logits.log_softmax(-1)
    tie = limit * float(ours.std())
    assert (ours - torch.tensor(found["logs"])).abs().max() < 2 * tie
    chosen = ours.gather(-1, torch.tensor(found["made"])[:, None])[:, 0]
    assert (chosen >= ours.amax(-1) - tie).all()


def written(source: Path, out: Path, precision: str = "fp16") -> Path:
    """The directory of a GGUF file."""
    options = ExportOptions.model_validate({"format": "gguf", "precision": precision})
    export(options, source, out, CONTEXT)
    return out


@pytest.mark.parametrize("family", sorted(GGUF))
def test_every_family(family: str, make_model: Callable[..., Path], tmp_path: Path) -> None:
    source = make_model(family, **GGUF[family][1])
    compare(source, written(source, tmp_path / "out"))


@pytest.mark.parametrize("form", ["linear", "yarn", "llama3", "longrope"])
def test_every_form_of_rotary_positions(
    form: str, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    block: dict[str, Any] = {"rope_type": form, "rope_theta": 20000.0, "factor": 4.0}
    if form != "linear":
        block["original_max_position_embeddings"] = 64
    if form == "llama3":
        block |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    if form == "longrope":  # llama.cpp takes the long factors for every context of 256
        block["short_factor"] = block["long_factor"] = [2.0 + i for i in range(32)]
    source = make_model("llama", rope_parameters=block)
    compare(source, written(source, tmp_path / "out"))


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece(prefix: bool, copy_model: Callable[..., Path], tmp_path: Path) -> None:
    source = copy_model("llama")
    for file in source.glob("tokenizer*"):
        file.unlink()
    lines = ["the cat sat on the mat and the hat", "def f(x): return 12 hats"]
    sentencepiece_tokenizer(source, lines, prefix=prefix)
    compare(source, written(source, tmp_path / "out"))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_pruned_model(family: str, make_model: Callable[..., Path], tmp_path: Path) -> None:
    source = make_model(family, num_hidden_layers=2, use_sliding_window=False)
    options = PruneOptions(heads=0.5, ffn=0.5, criterion="magnitude")
    prune(options, source, tmp_path / "pruned", CONTEXT)
    compare(tmp_path / "pruned", written(tmp_path / "pruned", tmp_path / "out"))


def test_a_tied_model_that_is_stored_as_its_head(
    copy_model: Callable[..., Path], tmp_path: Path
) -> None:
    source = copy_model("qwen3", **GGUF["qwen3"][1] | {"tie_word_embeddings": True})
    tied = written(source, tmp_path / "table")
    state = load_file(source / "model.safetensors")
    state["lm_head.weight"] = state.pop("model.embed_tokens.weight")
    save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    head = written(source, tmp_path / "head")
    compare(source, head)
    assert read_by_llama_cpp(head, PROMPT) == read_by_llama_cpp(tied, PROMPT)


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_the_trained_reasoner_says_the_same_pruned_and_quantized(
    precision: str, tmp_path: Path
) -> None:
    """On a trained model, which is sure of its tokens, they are exactly those of torch."""
    prune(PruneOptions(heads=0.25), Path(model_path(BUILTIN_MODEL)), tmp_path / "pruned", CONTEXT)
    source = tmp_path / "pruned"
    if precision == "int4":
        quantize(QuantizeOptions(), source, tmp_path / "int4", CONTEXT)
        source = tmp_path / "int4"
    ids = load_tokenizer(source).encode("12+30=")
    found = read_by_llama_cpp(written(source, tmp_path / "out", precision), ids, 24)
    model, made = load_model(source), list(ids)
    with torch.no_grad():
        for _ in found["made"]:
            made.append(int(model(input_ids=torch.tensor([made])).logits[0, -1].argmax()))
    assert found["made"] == made[len(ids) :]
