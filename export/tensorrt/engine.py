"""Build a TensorRT engine of an artifact, with trtexec commands or with the Python API.

An engine only runs on the TensorRT release and the GPU it was built for. So it is built on the
device, where this file is copied; it imports the standard library only. The module `tensorrt` is an
argument, so that TensorRT for RTX can be used instead on a machine without a GPU.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import EdgewrightError, Refused

__all__ = [
    "PHASES",
    "EngineSpec",
    "Shapes",
    "build_command",
    "build_with",
    "logger_of",
    "parsed",
    "profile_shapes",
    "read_spec",
    "run_command",
    "spec_block",
    "supported",
    "version_of",
]

PHASES = ("prefill", "decode")
"""Profile 0 and profile 1 of the engine."""
OLDEST = (10, 0)
"""TensorRT 10 added `--stronglyTyped` and INT4; older ones may compute float32 nodes in fp16."""
WEAKLY_TYPED_UNTIL = (11, 0)
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class EngineSpec:
    """The model and the sizes that an engine is built for.

    Attributes:
        layers, kv_heads, head_dim: of the model.
        prompt: maximum number of tokens of one prefill pass.
        context: maximum number of tokens of prompt and answer together.
        batch: sequences at a time.
        workspace_mib: memory in MiB that kernels may use while they are timed and run.
        sparse: whether the weights are 2:4 sparse.
        windowed: whether a layer sees only a window of positions, shorter than the context.
    """

    layers: int
    kv_heads: int
    head_dim: int
    prompt: int
    context: int
    batch: int = 1
    workspace_mib: int = 1024
    sparse: bool = False
    windowed: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.prompt < self.context or self.batch < 1:
            raise Refused(
                f"an engine for prompts of {self.prompt} and a context of {self.context} tokens",
                "give 1 <= --prompt < --context",
            )


def read_spec(file: Path) -> EngineSpec:
    """The `engine` block of a bundle.json."""
    return EngineSpec(**json.loads(file.read_text())["engine"])


def version_of(text: str) -> tuple[int, ...]:
    """`10.3.0.30-1+cuda12.5` as (10, 3, 0)."""
    return tuple(int(part) for part in text.split("-")[0].split(".")[:3] if part.isdigit())


def _shapes(spec: EngineSpec, new: int, past: int) -> Shapes:
    """The shape of every input for `new` tokens after `past` cached ones."""
    cache = {
        f"past_key_values.{layer}.{part}": (spec.batch, spec.kv_heads, past, spec.head_dim)
        for layer in range(spec.layers)
        for part in ("key", "value")
    }
    return {
        "input_ids": (spec.batch, new),
        "attention_mask": (spec.batch, past + new),
        "position_ids": (spec.batch, new),
        **cache,
    }


def profile_shapes(spec: EngineSpec, phase: str) -> tuple[Shapes, Shapes, Shapes]:
    """Smallest, typical and largest shapes of a phase.

    An empty past would be an empty tensor, and nobody has confirmed that Orin supports those. So
    the smallest past is one position, which the first prefill masks out.
    """
    longest = spec.context - 1
    if phase == "prefill":
        past = spec.context - spec.prompt
        return _shapes(spec, 1, 1), _shapes(spec, spec.prompt, 1), _shapes(spec, spec.prompt, past)
    return _shapes(spec, 1, 1), _shapes(spec, 1, max(1, longest // 2)), _shapes(spec, 1, longest)


def _listed(shapes: Shapes) -> str:
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())


def supported(version: tuple[int, ...]) -> None:
    """Raise `Refused` for a TensorRT that is too old to build engines with."""
    if version < OLDEST:
        raise Refused(
            f"TensorRT {'.'.join(map(str, version))} has no INT4, and would choose itself what is "
            "computed in half precision",
            "JetPack 6.1 or later brings TensorRT 10; on older ones the ONNX Runtime part of the "
            "bundle still runs",
        )


def build_command(
    trtexec: str, version: tuple[int, ...], spec: EngineSpec, onnx: Path, engine: Path, cache: Path
) -> list[str]:
    """The command line of trtexec that builds an engine with both profiles.

    Raises:
        Refused: this TensorRT is too old.
    """
    supported(version)
    command = [
        trtexec,
        f"--onnx={onnx}",
        f"--saveEngine={engine}",
        "--skipInference",
        "--builderOptimizationLevel=3",
        f"--memPoolSize=workspace:{spec.workspace_mib}M",
        f"--timingCacheFile={cache}",
        "--profilingVerbosity=detailed",
    ]
    if version < WEAKLY_TYPED_UNTIL:  # the only mode from 11 on
        command.append("--stronglyTyped")
    if spec.sparse:
        command.append("--sparsity=enable")
    for index, phase in enumerate(PHASES):
        least, typical, most = map(_listed, profile_shapes(spec, phase))
        command += [
            f"--profile={index}",
            f"--minShapes={least}",
            f"--optShapes={typical}",
            f"--maxShapes={most}",
        ]
    return command


def run_command(
    trtexec: str,
    version: tuple[int, ...],
    spec: EngineSpec,
    engine: Path,
    phase: str,
    inputs: Mapping[str, Path],
    out: Path,
) -> list[str]:
    """The command line of trtexec that times one phase.

    `prefill` is a whole prompt after one token, `decode` one token after a nearly full context.

    Args:
        trtexec: the program.
        version: of TensorRT.
        spec: what the engine was built for.
        engine: the engine.
        phase: `prefill` or `decode`.
        inputs: raw files of the integer inputs. Without them, trtexec uses random token ids that
            are outside of the vocabulary.
        out: folder for `PHASE-times.json` and `PHASE-profile.json`.
    """
    supported(version)
    _, typical, most = profile_shapes(spec, phase)
    files = ",".join(f"{name}:{file}" for name, file in inputs.items())
    return [
        trtexec,
        f"--loadEngine={engine}",
        f"--useProfile={PHASES.index(phase)}",
        f"--shapes={_listed(typical if phase == 'prefill' else most)}",
        f"--loadInputs={files}",
        "--useCudaGraph",
        "--useSpinWait",
        "--noDataTransfers",
        "--warmUp=500",
        "--duration=5",
        f"--exportTimes={out / f'{phase}-times.json'}",
        "--separateProfileRun",
        "--dumpProfile",
        f"--exportProfile={out / f'{phase}-profile.json'}",
    ]


def build_with(
    trt: Any, spec: EngineSpec, onnx: Path, configure: Any = None, cache: Path | None = None
) -> bytes:
    """Build an engine with both profiles with TensorRT's Python API.

    Args:
        trt: the module `tensorrt`, or TensorRT for RTX's.
        spec: what the engine is for.
        onnx: the artifact's model file.
        configure: called with the builder's configuration before the build.
        cache: file of the timing cache to read and write, if the module has one.

    Raises:
        Refused: the parser rejects the graph; the message is the parser's.
        EdgewrightError: the build failed.
    """
    builder, network, errors, logger = parsed(trt, onnx)
    if errors:
        reasons = "; ".join(dict.fromkeys(errors))
        raise Refused(
            f"{onnx.parent.name}: TensorRT's parser refuses the graph: {reasons}",
            "export with --precision fp16 or int4",
        )
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, spec.workspace_mib << 20)
    if spec.sparse and hasattr(trt.BuilderFlag, "SPARSE_WEIGHTS"):
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    for phase in PHASES:
        profile = builder.create_optimization_profile()
        for name, shapes in _by_name(profile_shapes(spec, phase)).items():
            profile.set_shape(name, *shapes)
        config.add_optimization_profile(profile)
    timing = _timing_cache(config, cache)
    if configure:
        configure(config)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        reasons = "; ".join(logger.errors[-3:]) or "no reason given"
        raise EdgewrightError(
            f"{onnx.parent.name}: the engine could not be built: {reasons}",
            "see docs/deployment.md for what these mean",
        )
    if timing is not None and cache is not None:
        whole = cache.with_name(f".{cache.name}.{os.getpid()}.tmp")  # others may read the cache
        whole.write_bytes(bytes(timing.serialize()))
        whole.replace(cache)
    return bytes(engine)


def parsed(trt: Any, onnx: Path) -> tuple[Any, Any, list[str], Any]:
    """Parse an ONNX file: the builder, the network, the errors of nodes, and the logger."""
    logger = logger_of(trt)
    builder = trt.Builder(logger)
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(1 << int(typed) if typed is not None else 0)
    parser = trt.OnnxParser(network, logger)
    if parser.parse_from_file(str(onnx)):
        return builder, network, [], logger
    errors = [_reason(parser.get_error(index)) for index in range(parser.num_errors)]
    return builder, network, errors or ["no reason given"], logger


def _by_name(shapes: tuple[Shapes, Shapes, Shapes]) -> dict[str, tuple[tuple[int, ...], ...]]:
    return {name: tuple(part[name] for part in shapes) for name in shapes[0]}


def _timing_cache(config: Any, file: Path | None) -> Any:
    """Attach a timing cache to the configuration; TensorRT for RTX times nothing and has none."""
    if file is None or not hasattr(config, "create_timing_cache"):
        return None
    timing = config.create_timing_cache(file.read_bytes() if file.is_file() else b"")
    config.set_timing_cache(timing, ignore_mismatch=False)
    return timing


def _reason(error: Any) -> str:
    node = (
        f" ({error.node_operator()} `{error.node_name()}`)"
        if hasattr(error, "node_operator")
        else ""
    )
    return f"{error.desc()}{node}"


def logger_of(trt: Any) -> Any:
    """A logger for a TensorRT module; its `errors` are what TensorRT logs as such."""

    class Logger(trt.ILogger):
        """Collects the errors that TensorRT logs."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)

    return Logger()


def spec_block(spec: EngineSpec) -> dict[str, Any]:
    """The `engine` block of a bundle.json."""
    return asdict(spec)
