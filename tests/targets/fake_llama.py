"""A double of llama-server with its options and its `/completion`, and a bundle for it.

Its "GGUF file" is JSON: the numbers by which it continues a prompt, the token that ends an answer,
and how it misbehaves.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgewright.checkpoints.hashing import write_provenance
from edgewright.targets import load_target
from edgewright.targets.acceptance.examine import Exam
from edgewright.targets.acceptance.reference import Reference, ReferenceAnswer
from edgewright.targets.bundle import Bundle, make_bundle
from edgewright.targets.runtimes.interface import Scored

RULE = """
import math

def probabilities(ids, model):
    \"\"\"The most likely tokens after a prompt, with their log-probabilities.\"\"\"
    best = (sum(ids) * model["factor"] + len(ids)) % 97
    return [[best, math.log(0.9)], [(best + 1) % 97, math.log(0.08)]]
"""
PROGRAM = f"""#!{sys.executable} -S
import json, os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
{RULE}
if "--version" in sys.argv:
    sys.exit(print("version: 1 (double)", file=sys.stderr))
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
model = json.load(open(options["--model"]))
key = os.environ["LLAMA_API_KEY"]
with open(os.path.join(os.path.dirname(__file__), "started"), "a") as log:
    log.write(json.dumps([sys.argv, key]) + chr(10))
if model.get("fails"):
    sys.exit("error loading model: unknown architecture")

class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def reply(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.reply(200, {{"status": "ok"}})

    def do_POST(self):
        if self.headers["Authorization"] != "Bearer " + key:
            return self.reply(401, {{"error": "Invalid API Key"}})
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if model.get("dies"):
            print("ggml_cuda_host_malloc: out of memory", flush=True)
            os._exit(1)
        with open(os.path.join(os.path.dirname(__file__), "asked"), "a") as log:
            log.write("x")
        ids, made, steps = list(body["prompt"]), [], []
        end = None if body.get("ignore_eos", True) else model.get("end")
        for _ in range(body["n_predict"]):
            if made and made[-1] == end:
                break
            found = probabilities(ids + made, model)
            top = [dict(id=token, logprob=log) for token, log in found]
            steps.append({{"top_logprobs": top}})
            made.append(found[0][0])
        times = {{"prompt_ms": 10.0, "predicted_ms": 5.0 * (len(made) - 1)}}
        ended = bool(made) and made[-1] == end
        answer = {{"tokens": made, "timings": times, "stop_type": "eos" if ended else "limit"}}
        if body.get("n_probs"):
            answer["completion_probabilities"] = steps
        self.reply(200, answer)

ThreadingHTTPServer((options["--host"], int(options["--port"])), Handler).serve_forever()
"""
GOOD = {"factor": 3}
BROKEN = {"factor": 5}


class Letters:
    """A tokenizer of 97 letters."""

    def decode(self, tokens: Any, *, skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return "".join(chr(ord("0") + token) for token in tokens)


def gguf_bundle(folder: Path, model: dict[str, Any]) -> Bundle:
    """The bundle of a "GGUF file"."""
    artifact = folder / "letters"
    artifact.mkdir(parents=True, exist_ok=True)
    (artifact / "model.gguf").write_text(json.dumps(model))
    write_provenance(artifact, {"format": "gguf", "precision": "int4"})
    return make_bundle(artifact, load_target("cpu"))


def exam(questions: int = 16, tokens: int = 3) -> Exam:
    """Questions that `GOOD` answers rightly."""
    rule: dict[str, Any] = {}
    exec(RULE, rule)
    rows: list[ReferenceAnswer] = []
    for number in range(questions):
        ids = [number, number + 7, 2 * number + 1]
        made: list[int] = []
        steps: list[list[list[float]]] = []
        for _ in range(tokens):
            steps.append(rule["probabilities"]([*ids, *made], GOOD))
            made.append(int(steps[-1][0][0]))
        best = [[int(token) for token, _ in step] for step in steps]
        scored = Scored(best, [[log for _, log in step] for step in steps])
        rows.append(ReferenceAnswer(f"{number}?", tuple(ids), tuple(made), scored))
    settings = {"questions": questions, "answer_tokens": tokens}
    reference = Reference(Path("letters"), "0123", (), tuple(rows), settings)
    return Exam("int4", Letters(), (), Path("letters"), reference)


def programs_in(folder: Path) -> list[str]:
    """Command lines of all processes that work below a folder."""
    found: list[str] = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            if Path(os.readlink(process / "cwd")).is_relative_to(folder):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def wait_until_none(folder: Path, seconds: float = 120.0) -> None:
    """Wait until no process works below a folder any more."""
    end = time.monotonic() + seconds
    while programs_in(folder):
        assert time.monotonic() < end, programs_in(folder)
        time.sleep(0.05)
