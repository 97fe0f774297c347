"""What a bundle does on a device: verify itself, generate, build an engine, measure. `run.sh` calls it; it prints one JSON document.

Needs Python 3.10, numpy and onnxruntime, and nothing else of edgewright than what lies in the bundle's `lib/`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import EdgewrightError, ParityFailed, UsageError
from ...export.tensorrt.engine import (
    PHASES,
    build_command,
    build_with,
    profile_shapes,
    read_spec,
    run_command,
    version_of,
)
from .probe import probe

if TYPE_CHECKING:
    from ...export.onnx.runtime import OnnxDecoder

__all__ = ["bench", "build", "check", "main", "verify"]

MANIFEST, ENGINE = "bundle.json", Path("engine") / "model.engine"
NO_TRTEXEC = "trtexec is not on this device, and neither is the Python module tensorrt"
NO_TRTEXEC_HINT = "sudo apt install nvidia-jetpack (trtexec lies in /usr/src/tensorrt/bin), or go on without an engine: --no-engine"


def verify(bundle: Path) -> dict[str, Any]:
    """Compare every file of a bundle with its checksum.

    Raises:
        EdgewrightError: a file is missing or altered.
    """
    files = _manifest(bundle)["files"]
    bad = [
        name
        for name, told in files.items()
        if not (bundle / name).is_file() or _sha256(bundle / name) != told["sha256"]
    ]
    if bad:
        raise EdgewrightError(
            f"{bundle}: missing or altered: {', '.join(sorted(bad))}", "deploy it again"
        )
    return {"files": len(files), "bytes": sum(told["size"] for told in files.values())}


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as handle:  # not file_digest, which Python 3.10 has not
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _manifest(bundle: Path) -> dict[str, Any]:
    return json.loads((bundle / MANIFEST).read_text())


def check(bundle: Path, threads: int) -> dict[str, float]:
    """Generate what the bundle recorded where it was made, and compare token by token.

    Where two tokens were as good as equally likely, another processor may choose the other one; that counts as a tie and not as
    a difference, and the comparison of that prompt ends there.

    Raises:
        ParityFailed: the device computes something else.
    """
    told, decoder = _manifest(bundle), _decoder(bundle, threads)
    equal = ties = total = 0
    for row in told["check"]:
        made, wanted = list(decoder.stream(row["ids"], len(row["tokens"]))), row["tokens"]
        total += len(wanted)
        first = next(
            (i for i, pair in enumerate(zip(made, wanted, strict=True)) if pair[0] != pair[1]),
            len(wanted),
        )
        equal += first
        if first < len(wanted):
            gap = _gap(decoder, [*row["ids"], *wanted[:first]], made[first], wanted[first])
            if gap > told["tie"]:
                raise ParityFailed(
                    f"token {first + 1} after {row['ids'][:8]}... is {made[first]}, and was {wanted[first]} where the bundle was made "
                    f"(logits {gap:.3g} apart)",
                    "another release of onnxruntime may compute it right; the bundle's own is in bundle.json",
                )
            ties += len(wanted) - first
    return {"check/tokens": total, "check/equal": equal, "check/ties": ties}


def _decoder(bundle: Path, threads: int) -> OnnxDecoder:
    from ...export.onnx.runtime import OnnxDecoder

    return OnnxDecoder(bundle / "model", threads)


def _gap(decoder: OnnxDecoder, ids: Sequence[int], made: int, wanted: int) -> float:
    import numpy as np  # late, as everywhere here: most verbs do without

    prompt = np.asarray([ids], np.int64)
    logits = decoder.forward(prompt, np.ones_like(prompt))[0][0, -1]
    return float(logits[made] - logits[wanted])


def build(bundle: Path) -> dict[str, Any]:
    """Build the TensorRT engine here, with trtexec or else the Python API, unless this TensorRT built it before.

    Raises:
        EdgewrightError: there is neither, or the build failed; what the tools said is in `engine/build.log`.
        Refused: this TensorRT cannot read the artifact.
    """
    spec, found = read_spec(bundle / MANIFEST), probe(str(bundle))
    folder, engine = (bundle / ENGINE).parent, bundle / ENGINE
    folder.mkdir(exist_ok=True)
    stamp = folder / "built-with.json"
    identity = {
        "tensorrt": found["tensorrt"],
        "board": found["board"],
        "spec": _manifest(bundle)["engine"],
        "id": _manifest(bundle)["id"],
    }
    if engine.is_file() and stamp.is_file() and json.loads(stamp.read_text()) == identity:
        return {
            "engine": str(engine),
            "reused": True,
            "seconds": 0.0,
            "bytes": engine.stat().st_size,
        }
    begin, partial = time.monotonic(), engine.with_suffix(".partial")
    trtexec = found["trtexec"]
    if trtexec and found["tensorrt"]:
        version = version_of(found["tensorrt"])
        command = build_command(
            trtexec,
            version,
            spec,
            bundle / "model" / "model.onnx",
            partial,
            folder / "timing.cache",
        )
        _run(command, folder / "build.log")
    else:
        partial.write_bytes(
            build_with(
                _tensorrt(), spec, bundle / "model" / "model.onnx", cache=folder / "timing.cache"
            )
        )
    partial.replace(engine)
    stamp.write_text(json.dumps(identity))
    return {
        "engine": str(engine),
        "reused": False,
        "seconds": round(time.monotonic() - begin, 1),
        "bytes": engine.stat().st_size,
    }


def _tensorrt() -> Any:
    try:
        import tensorrt  # pyright: ignore[reportMissingImports] - on the device only
    except ImportError as error:
        raise EdgewrightError(NO_TRTEXEC, NO_TRTEXEC_HINT) from error
    return tensorrt


def _run(command: Sequence[str], log: Path) -> str:
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    log.write_text(done.stdout)
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-30:])
        raise EdgewrightError(
            f"{Path(command[0]).name} ended with {done.returncode}:\n{tail}",
            f"all it said is in {log}",
        )
    return done.stdout


def bench(bundle: Path, threads: int, prompt: int, new_tokens: int, rounds: int) -> dict[str, Any]:
    """Time ONNX Runtime, and the engine if there is one, while tegrastats watches.

    Returns:
        `rounds`, `peaks` and `load_s` of ONNX Runtime as its worker tells them, `device` (what `probe` found, before), `tegrastats` (its
        lines) and `trtexec` (log, times and profile a phase), as text: reading them is the host's business.
    """
    before = probe(str(bundle))
    asked = json.dumps({"prompt": prompt, "new_tokens": new_tokens, "batch": 1})
    with _watched() as lines:
        command = [
            sys.executable,
            "-m",
            "edgewright.benchmarks.latency.worker",
            str(bundle / "model"),
            "--threads",
            str(threads),
        ]
        done = subprocess.run(
            command, input=f"{asked}\n" * (rounds + 1), capture_output=True, text=True, check=False
        )
        if done.returncode:
            told = (
                done.stderr.strip().splitlines() or ["it was killed, perhaps for lack of memory"]
            )[-1]
            raise EdgewrightError(
                f"the benchmark ended with {done.returncode}: {told}",
                "close other programs, or bundle a shorter context",
            )
        engine = _time_engine(bundle, before) if (bundle / ENGINE).is_file() else {}
    loaded, _, *timed, peaks = map(json.loads, done.stdout.splitlines())  # the first round warms up
    return {
        "rounds": timed,
        "peaks": peaks,
        "load_s": loaded["load_s"],
        "prompt": prompt,
        "device": before,
        "tegrastats": "".join(lines),
        "trtexec": engine,
    }


@contextmanager
def _watched() -> Generator[list[str]]:
    """The lines of tegrastats on what runs inside, complete once it ended; none where there is no tegrastats."""
    lines: list[str] = []
    with tempfile.TemporaryFile("w+") as kept:
        try:
            watcher = subprocess.Popen(
                ["tegrastats", "--interval", "500"], stdout=kept, stderr=subprocess.DEVNULL
            )
        except OSError:
            watcher = None
        try:
            yield lines
        finally:
            if watcher:
                watcher.terminate()
                watcher.wait()
            kept.seek(0)
            lines += kept.readlines()


def _time_engine(bundle: Path, device: dict[str, Any]) -> dict[str, dict[str, str]]:
    if not device["trtexec"]:
        return {}
    folder = (bundle / ENGINE).parent
    spec = read_spec(bundle / MANIFEST)
    told: dict[str, dict[str, str]] = {}
    for phase in PHASES:
        inputs = _inputs(
            folder,
            phase,
            spec,
            int(json.loads((bundle / "model" / "config.json").read_text())["vocab_size"]),
        )
        command = run_command(
            device["trtexec"],
            version_of(device["tensorrt"]),
            spec,
            bundle / ENGINE,
            phase,
            inputs,
            folder,
        )
        told[phase] = {"log": _run(command, folder / f"{phase}.log")}
        told[phase] |= {
            kind: (folder / f"{phase}-{kind}.json").read_text(errors="replace")
            for kind in ("times", "profile")
        }
    return told


def _inputs(folder: Path, phase: str, spec: Any, vocab: int) -> dict[str, Path]:
    """Raw int64 files of tokens, mask and positions, as trtexec reads them; a masked first position stands for an empty past."""
    import numpy as np

    _, typical, most = profile_shapes(spec, phase)
    shapes = typical if phase == "prefill" else most
    new, total = shapes["input_ids"][1], shapes["attention_mask"][1]
    mask = np.ones((spec.batch, total), np.int64)
    if phase == "prefill":
        mask[:, 0] = 0
    positions = np.maximum(mask.cumsum(1) - 1, 0)[:, -new:]
    arrays = {
        "input_ids": (np.arange(new) * 7 + 11) % vocab * np.ones((spec.batch, 1), np.int64),
        "attention_mask": mask,
    }
    files: dict[str, Path] = {}
    for name, array in (arrays | {"position_ids": positions}).items():
        files[name] = folder / f"{phase}-{name}.bin"
        files[name].write_bytes(np.ascontiguousarray(array, np.int64).tobytes())
    return files


def _prompt(bundle: Path, arguments: argparse.Namespace) -> list[int]:
    if arguments.ids:
        return [int(part) for part in arguments.ids.split(",")]
    return _tokenizer(bundle).encode(arguments.prompt or "").ids


def _tokenizer(bundle: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise UsageError(
            "text needs the package tokenizers, which is not installed",
            "pip install tokenizers, or give --ids 1,2,3",
        ) from error
    return Tokenizer.from_file(str(bundle / "model" / "tokenizer.json"))


def _generated(bundle: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    from ...export.onnx.sampling import Sampling  # late: numpy

    ids = _prompt(bundle, arguments)
    if not ids:
        raise UsageError("there is no prompt", "give --ids 1,2,3 or --prompt TEXT")
    sampling = Sampling(arguments.temperature, arguments.top_p, arguments.seed)
    tokens: list[int] = []
    for token in _decoder(bundle, arguments.threads).stream(
        ids, arguments.new_tokens, _manifest(bundle)["eos_ids"], sampling
    ):
        tokens.append(token)
        if arguments.stream:
            print(json.dumps({"token": token}), flush=True)
    return {"tokens": tokens} | (
        {"text": _tokenizer(bundle).decode(tokens)} if arguments.prompt else {}
    )


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
    verbs.add_parser(
        "check", help="generate what was generated where the bundle was made, and compare"
    )
    verbs.add_parser("build", help="build the TensorRT engine")
    verbs.add_parser("probe", help="say what this device is")
    timing = verbs.add_parser("bench", help="measure latency and memory")
    for option, value in (("--prompt-tokens", 64), ("--new-tokens", 64), ("--rounds", 5)):
        timing.add_argument(option, type=int, default=value, help=f"default {value}")
    speak = verbs.add_parser("generate", help="continue a prompt")
    speak.add_argument("--ids", help="comma-separated token ids")
    speak.add_argument("--prompt", help="text, if the package tokenizers is installed")
    speak.add_argument("--new-tokens", type=int, default=64)
    speak.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        help="0, the default: always the most likely token",
    )
    speak.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        help="draw from the smallest set of tokens with this share of the mass",
    )
    speak.add_argument("--seed", type=int, default=0)
    speak.add_argument(
        "--stream",
        action="store_true",
        help="a JSON line for every token as it is made, before the document",
    )
    return parser


def main() -> None:
    """Run one verb of a bundle; an error is one JSON document on standard error, with the exit code that edgewright uses for it."""
    arguments = _parser().parse_args()
    bundle = arguments.bundle
    verbs = {
        "verify": lambda: verify(bundle),
        "check": lambda: check(bundle, arguments.threads),
        "build": lambda: build(bundle),
        "probe": lambda: probe(str(bundle)),
        "generate": lambda: _generated(bundle, arguments),
        "bench": lambda: bench(
            bundle,
            arguments.threads,
            arguments.prompt_tokens,
            arguments.new_tokens,
            arguments.rounds,
        ),
    }
    try:
        print(json.dumps(verbs[arguments.verb]()))
    except EdgewrightError as error:
        print(json.dumps({"error": str(error), "hint": error.hint}), file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
