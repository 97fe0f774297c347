"""A TensorRT engine of a decoder artifact: its two optimization profiles, trtexec's command lines, and a build through the Python API.

Imports nothing but the standard library, as it travels to the device: an engine is tied to the TensorRT release and to the GPU, so it is
built where it runs. The module `tensorrt` is handed in, which lets NVIDIA's TensorRT for RTX stand in for it on a machine without a GPU.
"""

from __future__ import annotations

import json
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
"""`--stronglyTyped` came with TensorRT 10, and so did INT4. Before, nothing keeps what is written in floats out of half precision."""
WEAKLY_TYPED_UNTIL = (11, 0)
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class EngineSpec:
    """What an engine is built for.

    Attributes:
        layers, kv_heads, head_dim: of the model.
        prompt: most tokens of one prefill pass.
        context: most tokens of prompt and answer together.
        batch: sequences at a time.
        workspace_mib: memory that kernels may use while they are tried out and run.
        sparse: whether the weights are 2:4 sparse.
    """

    layers: int
    kv_heads: int
    head_dim: int
    prompt: int
    context: int
    batch: int = 1
    workspace_mib: int = 1024
    sparse: bool = False

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
    """The shape of every input when `new` tokens follow `past` cached ones."""
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

    A past of no tokens would be an empty tensor, which nobody has confirmed on Orin. So the smallest past is one position, which
    a first prefill masks out: in this graph a masked position has no weight.
    """
    longest = spec.context - 1
    if phase == "prefill":
        past = spec.context - spec.prompt
        return _shapes(spec, 1, 1), _shapes(spec, spec.prompt, 1), _shapes(spec, spec.prompt, past)
    return _shapes(spec, 1, 1), _shapes(spec, 1, max(1, longest // 2)), _shapes(spec, 1, longest)


def _listed(shapes: Shapes) -> str:
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())


def supported(version: tuple[int, ...]) -> None:
    """Raise `Refused` for a TensorRT that no engine is built with here."""
    if version < OLDEST:
        raise Refused(
            f"TensorRT {'.'.join(map(str, version))} has no INT4, and would choose itself what is computed in half precision",
            "JetPack 6.1 or later brings TensorRT 10; on older ones the ONNX Runtime part of the bundle still runs",
        )


def build_command(
    trtexec: str, version: tuple[int, ...], spec: EngineSpec, onnx: Path, engine: Path, cache: Path
) -> list[str]:
    """The command line of trtexec that builds an engine with both profiles.

    Raises:
        Refused: that TensorRT cannot read the artifact.
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
    if version < WEAKLY_TYPED_UNTIL:  # from 11 on there is nothing else
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
    """The command line of trtexec that times one phase: a whole prompt after one token, or one token after a nearly full context.

    Args:
        trtexec: the program.
        version: of TensorRT.
        spec: what the engine was built for.
        engine: the engine.
        phase: `prefill` or `decode`.
        inputs: raw files of the integer inputs; random token ids would lie outside the vocabulary.
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
    """Build an engine with both profiles through TensorRT's Python API.

    Args:
        trt: the module `tensorrt`, or TensorRT for RTX's.
        spec: what the engine is for.
        onnx: the artifact's model file.
        configure: called with the builder's configuration before the build.
        cache: timing cache to read and write, where the module has one.

    Raises:
        Refused: the parser does not take the graph; the message is the parser's own.
        EdgewrightError: the build failed.
    """
    builder, network, errors, logger = parsed(trt, onnx)
    if errors:
        told = "; ".join(dict.fromkeys(errors))
        raise Refused(
            f"{onnx.parent.name}: TensorRT's parser refuses the graph: {told}",
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
        told = "; ".join(logger.errors[-3:]) or "no reason given"
        raise EdgewrightError(
            f"{onnx.parent.name}: the engine could not be built: {told}",
            "see docs/deployment.md for what these mean",
        )
    if timing is not None and cache is not None:
        cache.write_bytes(bytes(timing.serialize()))
    return bytes(engine)


def parsed(trt: Any, onnx: Path) -> tuple[Any, Any, list[str], Any]:
    """A builder, the network that TensorRT's parser makes of an ONNX file, what it says against nodes, and the logger of all that."""
    logger = _logger(trt)
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
    """A timing cache attached to the configuration; TensorRT for RTX, which tries nothing out, has none."""
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


def _logger(trt: Any) -> Any:
    class Logger(trt.ILogger):
        """Keeps what TensorRT says is wrong."""

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
