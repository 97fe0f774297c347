"""The program that `run.sh` of a bundle starts on a device. It prints JSON documents.

It needs Python 3.10 or later, numpy, onnxruntime or tensorrt, and the modules in the bundle's
`lib/`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import EdgewrightError, ParityFailed, UsageError
from .answer import answer_lines
from .bench import bench
from .decoders import RUNTIMES, open_decoder
from .engine import build
from .llama_server import serve_llama
from .manifest import read_manifest, verify
from .probe import probe

if TYPE_CHECKING:
    from ...export.onnx.runtime import OnnxDecoder

__all__ = ["check", "main"]


def check(bundle: Path, threads: int) -> dict[str, float]:
    """Generate from the bundle's test prompts, and compare with the tokens in its manifest.

    Two tokens can have almost the same logit. Then another processor may choose the other one.
    This is counted as a tie, not as an error, and the rest of that prompt is not compared.

    Returns:
        `check/tokens`, `check/equal` and `check/ties`: numbers of tokens.

    Raises:
        ParityFailed: the device computes other tokens.
    """
    manifest = read_manifest(bundle)
    decoder = _decoder(bundle, threads)
    equal = 0
    ties = 0
    total = 0
    for row in manifest["check"]:
        wanted = row["tokens"]
        made = list(decoder.stream(row["ids"], len(wanted)))
        total += len(wanted)
        first = next(
            (i for i, pair in enumerate(zip(made, wanted, strict=True)) if pair[0] != pair[1]),
            len(wanted),
        )
        equal += first
        if first < len(wanted):
            gap = _gap(decoder, [*row["ids"], *wanted[:first]], made[first], wanted[first])
            if gap > manifest["tie"]:
                raise ParityFailed(
                    f"token {first + 1} after {row['ids'][:8]}... is {made[first]}, and was "
                    f"{wanted[first]} on the machine that made the bundle (the logits differ by "
                    f"{gap:.3g})",
                    "try another release of onnxruntime on the device",
                )
            ties += len(wanted) - first
    return {"check/tokens": total, "check/equal": equal, "check/ties": ties}


def _decoder(bundle: Path, threads: int) -> OnnxDecoder:
    from ...export.onnx.runtime import OnnxDecoder

    return OnnxDecoder(bundle / "model", threads)


def _gap(decoder: OnnxDecoder, ids: Sequence[int], made: int, wanted: int) -> float:
    """How much larger the logit of `made` is than that of `wanted`, after these tokens."""
    import numpy as np  # here, because most verbs do not need numpy

    prompt = np.asarray([ids], np.int64)
    logits = decoder.forward(prompt, np.ones_like(prompt))[0][0, -1]
    return float(logits[made] - logits[wanted])


def _prompt(bundle: Path, arguments: argparse.Namespace) -> list[int]:
    if arguments.ids:
        return [int(part) for part in arguments.ids.split(",")]
    return _tokenizer(bundle).encode(arguments.prompt or "").ids


def _tokenizer(bundle: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise UsageError(
            "--prompt needs the Python package tokenizers, which is not installed",
            "pip install tokenizers, or give --ids 1,2,3",
        ) from error
    return Tokenizer.from_file(str(bundle / "model" / "tokenizer.json"))


def _generate(bundle: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    from ...export.onnx.sampling import Sampling  # imports numpy
    from ...export.onnx.token_loop import stream

    ids = _prompt(bundle, arguments)
    if not ids:
        raise UsageError("there is no prompt", "give --ids 1,2,3 or --prompt TEXT")
    sampling = Sampling(arguments.temperature, arguments.top_p, arguments.seed)
    tokens: list[int] = []
    decoder = open_decoder(bundle, arguments.runtime, arguments.threads, "cpu")
    eos_ids = read_manifest(bundle)["eos_ids"]
    for token in stream(decoder, ids, arguments.new_tokens, eos_ids, sampling):
        tokens.append(token)
        if arguments.stream:
            print(json.dumps({"token": token}), flush=True)
    text = {"text": _tokenizer(bundle).decode(tokens)} if arguments.prompt else {}
    return {"tokens": tokens} | text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run.sh", description="run this bundle; prints one JSON document"
    )
    parser.add_argument(
        "--bundle", type=Path, default=Path(__file__).parents[4], help=argparse.SUPPRESS
    )
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="threads of ONNX Runtime"
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("verify", help="compare every file with its checksum")
    verbs.add_parser("check", help="compare generated tokens with those in bundle.json")
    building = verbs.add_parser("build", help="build the TensorRT engine")
    building.add_argument(
        "--force", action="store_true", help="even if the memory seems too little"
    )
    verbs.add_parser("probe", help="describe this device: versions, memory, disk, power mode")
    timing = verbs.add_parser("bench", help="measure latency and memory")
    for option, value in (("--prompt-tokens", 64), ("--new-tokens", 64), ("--rounds", 5)):
        timing.add_argument(option, type=int, default=value, help=f"default {value}")
    _add_generate(verbs.add_parser("generate", help="continue a prompt"))
    answering = verbs.add_parser("answer", help="answer prompts of a host, a JSON object a line")
    answering.add_argument(
        "--provider", default="auto", choices=("auto", "cpu", "cuda", "tensorrt")
    )
    _add_runtime(answering)
    served = verbs.add_parser("llama-server", help="run llama-server until the input ends")
    served.add_argument("--program", default="", help="its path; default: search it")
    served.add_argument("--context", type=int, default=2048, help="tokens in the KV cache")
    return parser


def _add_runtime(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--runtime",
        default=RUNTIMES[0],
        choices=RUNTIMES,
        help="what generates tokens; tensorrt: the engine of run.sh build",
    )


def _add_generate(parser: argparse.ArgumentParser) -> None:
    _add_runtime(parser)
    parser.add_argument("--ids", help="comma-separated token ids")
    parser.add_argument("--prompt", help="text; needs the Python package tokenizers")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        help="0, the default: always the most likely token",
    )
    parser.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        help="draw from the smallest set of tokens that has this share of the probability",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--stream",
        action="store_true",
        help="also print a JSON line for each token as soon as it is generated",
    )


def main() -> None:
    """Run one verb of a bundle.

    An error is printed to standard error as one JSON document. The exit codes are those of the
    edgewright command.
    """
    arguments = _parser().parse_args()
    bundle = arguments.bundle
    verbs = {
        "verify": lambda: verify(bundle),
        "check": lambda: check(bundle, arguments.threads),
        "build": lambda: build(bundle, force=arguments.force),
        "probe": lambda: probe(str(bundle)),
        "generate": lambda: _generate(bundle, arguments),
        "bench": lambda: bench(
            bundle,
            arguments.threads,
            arguments.prompt_tokens,
            arguments.new_tokens,
            arguments.rounds,
        ),
        "answer": lambda: answer_lines(
            lambda: open_decoder(bundle, arguments.runtime, arguments.threads, arguments.provider)
        ),
        "llama-server": lambda: serve_llama(
            bundle, arguments.program, arguments.context, arguments.threads
        ),
    }
    try:
        print(json.dumps(verbs[arguments.verb]()))
    except BrokenPipeError:  # the host is gone; Python must not flush its output any more
        os._exit(1)
    except EdgewrightError as error:
        print(json.dumps({"error": str(error), "hint": error.hint}), file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
