"""A ledger with everything that a report can show, and a parser of the resulting page."""

from __future__ import annotations

import json
import math
import random
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from edgewright.benchmarks.measurement_files import (
    problem_samples,
    write_answers,
    write_measurement,
)
from edgewright.checkpoints.hashing import file_hash

VOID = {
    "area",
    "base",
    "br",
    "col",
    "embed",
    "hr",
    "img",
    "input",
    "link",
    "meta",
    "source",
    "track",
    "wbr",
}
CONTEXT = {
    "data_hash/reasoning": "9f2c51aa07e1",
    "seq_len/reasoning": 256,
    "problems/reasoning": 200,
    "problems/copying": 200,
    "backend": "torch",
    "device": "cpu",
    "dtype": "float32",
    "threads": 2,
    "latency": {"prompt": 64, "new_tokens": 64, "runs": 5, "batch": 1},
}


def metrics(
    accuracy: float, kl: float, speed: float, size: float, parameters: int
) -> dict[str, float]:
    return {
        "accuracy/reasoning": accuracy,
        "accuracy/reasoning/n": 200,
        "accuracy/reasoning/stderr": math.sqrt(accuracy * (1 - accuracy) / 199),
        "accuracy/copying": accuracy - 0.05,
        "accuracy/copying/n": 200,
        "accuracy/copying/stderr": 0.018,
        "perplexity/reasoning": 1.2 + kl,
        "perplexity/reasoning/n": 51200,
        "kl/reasoning": kl,
        "top1_agreement/reasoning": 1 - kl / 2,
        "ttft_ms/p50": 2400 / speed,
        "ttft_ms/p90": 2600 / speed,
        "ttft_ms/p99": 3000 / speed,
        "decode_tok_s/p50": speed,
        "prefill_tok_s": speed * 14.2,
        "peak_rss_bytes": size + 4.1e8,
        "size_bytes": size,
        "parameters": parameters,
    }


def step(
    name: str, kind: str, numbers: dict[str, float], details: Any = None, **context: Any
) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "config": {"method": "gptq"} if kind == "quantize" else {},
        "output": name,
        "fingerprint": (name.encode().hex() * 20)[:64],
        "seconds": 12.3,
        "peak_rss_bytes": 1.26e9,
        "metrics": numbers,
        "notes": [f"{name}: first note", "second note"] if kind != "baseline" else [],
        "context": CONTEXT | context,
        "details": details or {},
    }


def made_modules() -> dict[str, dict[str, float]]:
    """Quantization errors of two linear layers in each of eight decoder layers."""
    dice = random.Random(8)
    return {
        f"model.layers.{i}.{m}": {
            "error": 0.001 * (i + 1) * (1 + dice.random()),
            "rtn_error": 0.0021 * (i + 1),
        }
        for i in range(8)
        for m in ("self_attn.q_proj", "mlp.down_proj")
    }


def made_steps() -> list[dict[str, Any]]:
    """A baseline, a pruned, a distilled, a quantized and an exported model."""
    dice = random.Random(7)
    importance = [[round(dice.random() ** 3, 4) for _ in range(12)] for _ in range(8)]
    pruned = [sorted(range(12), key=layer.__getitem__)[:3] for layer in importance]
    hidden = [2.5 * 0.97**i + 0.05 * dice.random() + 0.02 for i in range(100)]
    logits = [0.8 * 0.995**i + 0.08 * dice.random() for i in range(1000)]
    modules = made_modules()
    parity = {
        "parity/max_abs_diff": 0.0121,
        "parity/kl": 3.2e-06,
        "parity/top1_prefill": 1.0,
        "parity/top1_decode": 0.992,
        "parity/positions": 512.0,
        "parity/decode_steps": 8,
        "parity/low_bit_nodes": 57.0,
    }
    return [
        step("baseline", "baseline", metrics(0.97, 0.0, 81.2, 12_850_000, 3_212_345)),
        step(
            "prune",
            "prune",
            metrics(0.62, 0.31, 96.4, 9_650_000, 2_409_000),
            {"head_importance": importance, "pruned_heads": pruned},
        ),
        step(
            "distill",
            "distill",
            metrics(0.955, 0.02, 96.9, 9_650_000, 2_409_000),
            {"loss": {"hidden": hidden, "logits": logits}},
        ),
        step(
            "quantize",
            "quantize",
            metrics(0.95, 0.03, 91.0, 2_310_000, 2_409_000),
            {"modules": modules},
        ),
        step(
            "export-int4",
            "export",
            metrics(0.95, 0.031, 214.7, 2_400_000, 2_409_000),
            {"parity": parity},
            backend="onnx",
        ),
    ]


def made_gate() -> dict[str, Any]:
    """A gate with a check of an older version, an inconclusive one, and one that failed."""
    return {
        "verdict": "fail",
        "candidate": "export-int4",
        "baseline": "baseline",
        "checks": [
            {
                "metric": "accuracy/reasoning",
                "baseline": 0.97,
                "candidate": 0.95,
                "limit": "ratio >= 0.92",
                "observed": 0.979381,
                "passed": True,
            },
            {
                "metric": "accuracy/copying",
                "baseline": 0.92,
                "candidate": 0.9,
                "limit": "drop <= 0.01",
                "observed": 0.02,
                "verdict": "inconclusive",
                "interval": [-0.005, 0.045],
                "samples": 200,
                "samples_needed": 3391,
                "note": "",
            },
            {
                "metric": "decode_tok_s/p50",
                "baseline": 81.2,
                "candidate": 214.7,
                "limit": "ratio >= 3",
                "observed": 2.644,
                "verdict": "fail",
                "interval": None,
                "samples": None,
                "samples_needed": None,
                "note": "",
            },
        ],
    }


def made_plan() -> dict[str, Any]:
    """A plan in which one step fits and one does not."""
    row = {
        "step": "export-int4",
        "precision": "int4",
        "weight_bytes": 4.1e6,
        "kv_bytes": 2.1e6,
        "total_bytes": 5.1e9,
        "usable_bytes": 6.2e9,
        "fits": True,
        "ttft_ms": 20.0,
        "ttft_band": 0.5,
        "decode_tok_s": 100.0,
        "band": 0.3,
        "violations": [],
    }
    unfit = row | {"step": "baseline", "precision": "fp32", "total_bytes": 9.3e9, "fits": False}
    unfit["violations"] = [
        "9.3 GB of weights, cache and runtime do not fit into the 6.2 GB that the system leaves"
    ]
    return {"target": "jetson-orin-nano-8gb", "rows": [unfit, row]}


def make_ledger() -> dict[str, Any]:
    """The ledger of a finished run."""
    return {
        "schema": 1,
        "edgewright": "0.1.0",
        "created": "2025-11-21T23:45:59+00:00",
        "command": "edgewright run recipes/tiny.yaml --out runs/tiny --set steps.prune.heads=0.25",
        "recipe": {
            "name": "tiny chain",
            "model": "builtin:tiny-reasoner",
            "steps": [{"kind": "prune", "heads": 0.25}],
        },
        "environment": {
            "python": "3.11.2",
            "torch": "2.9.1",
            "cpu": "Example CPU @ 2.0 GHz",
            "os": {"name": "Linux"},
        },
        "steps": made_steps(),
        "gate": made_gate(),
        "plan": made_plan(),
    }


def made_answers(right: int) -> list[dict[str, Any]]:
    """Answers to 200 problems of two tasks each, the first `right` of them right."""
    start = "Answer this question with one number, after your thoughts: "
    return [
        {
            "task": task,
            "question": f"{start}what is {i} + {i} in {task}?",
            "expected": str(2 * i),
            "text": f"I add.\u2028So it is {2 * i if i < right else 'unknown'}.",
            "correct": i < right,
        }
        for task in ("reasoning", "copying")
        for i in range(200)
    ]


def answered_run(folder: Path) -> Path:
    """The run of `make_ledger` as a directory, with the samples and the answers of its steps."""
    ledger = make_ledger()
    (folder / "samples").mkdir(parents=True)
    for entry in ledger["steps"]:
        answers = made_answers(round(200 * entry["metrics"]["accuracy/reasoning"]))
        correct = [answer["correct"] for answer in answers[:200]]
        name = entry["name"]
        samples = {"accuracy/reasoning": problem_samples(correct)}
        write_measurement(folder / "samples" / f"{name}.json", samples)
        write_answers(folder / "samples" / f"{name}.jsonl", answers)
        entry["samples"] = f"samples/{name}.json"
        entry["sample_files"] = {
            f"samples/{file.name}": file_hash(file)
            for file in sorted((folder / "samples").glob(f"{name}.json*"))
        }
        entry["context"] |= {"problems_hash/reasoning": "a", "problems_hash/copying": "b"}
    (folder / "ledger.json").write_text(json.dumps(ledger))
    return folder


class Page(HTMLParser):
    """Checks that tags balance, and keeps what the tests look at."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.rows: list[list[str]] = []
        self.texts: list[str] = []
        self.html = text
        self.feed(text)
        self.close()
        assert self.open == []
        self.rows = [[" ".join(cell.split()) for cell in row] for row in self.rows]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "small":
            self.rows[-1][-1] += " "

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing that is open"

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    @property
    def ids(self) -> list[str]:
        return [value for _, name, value in self.attributes if name == "id"]
