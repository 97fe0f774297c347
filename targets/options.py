"""Options of everything that concerns a device: rules, bundle, deployment, and the HTTP server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field

from ..models.kv_cache import KvCache
from ..steps.options import Cli
from ..steps.panels import COMMON, Panels
from ..steps.places import Reads
from ..steps.strict import STRICT

__all__ = [
    "AcceptanceOptions",
    "BundleOptions",
    "CheckOptions",
    "DeployOptions",
    "DeviceLoad",
    "DraftOptions",
    "HostOptions",
]


class DeviceLoad(BaseModel):
    """How a device will use a model; memory and speed are predicted for this."""

    model_config = STRICT
    panels: ClassVar = Panels("Load on the device", common=("context",))

    context: int = Field(default=2048, description="tokens in the KV cache on the device")
    batch: int = Field(default=1, description="sequences that the device processes at a time")
    kv_cache: KvCache | None = Field(
        default=None,
        description="how keys and values are cached, as of `export`; default: as the artifact or "
        "the recipe says, else float",
    )


class PlannedPrecision(BaseModel):
    """The precision that a plan is for."""

    model_config = STRICT
    panels: ClassVar = Panels(COMMON)

    precision: Literal["fp16", "int8", "int4"] | None = Field(
        default=None,
        description="plan a model in this precision only; exit code 3 if the device cannot run it "
        "so; default: every one that it can be exported in",
    )


class DraftOptions(BaseModel):
    """A smaller model that proposes tokens which the model checks (speculative decoding)."""

    model_config = STRICT
    panels: ClassVar = Panels("Speculative decoding with a draft model")

    draft: Annotated[str | None, Reads()] = Field(
        default=None,
        description="smaller model with the same tokenizer, such as a distilled student; predicts "
        "the speed with its proposals",
    )
    draft_tokens: int | None = Field(
        default=None,
        description="tokens that the draft proposes in a round; default: the fastest number up to "
        "8",
    )
    draft_agreement: float | None = Field(
        default=None,
        description="share of the draft's tokens that the model agrees with, such as "
        "top1_agreement of `bench DRAFT --reference MODEL`; default: 0.7 is assumed",
    )


class CheckOptions(DeviceLoad):
    """What a device is asked to run."""

    panels: ClassVar = Panels(COMMON)

    precision: str | None = Field(
        default=None,
        description="precision of the weights; default: that of the checkpoint, fp16 if it is not "
        "quantized",
    )
    jetpack: str | None = Field(
        default=None, description="JetPack release on the device, such as 6.2; default: all known"
    )


class BundleOptions(BaseModel):
    """Limits of what a device runs from a bundle: the TensorRT engine, or llama-server."""

    model_config = STRICT
    panels: ClassVar = Panels("Load on the device")

    prompt: int = Field(
        default=512, description="most prompt tokens in one pass, for the TensorRT engine"
    )
    context: int = Field(
        default=2048,
        gt=0,
        description="most tokens of prompt and answer together, for the TensorRT engine and "
        "llama-server",
    )
    batch: int = Field(
        default=1, gt=0, description="sequences that run at the same time, for the TensorRT engine"
    )


class DeployOptions(BaseModel):
    """What is done on the device."""

    model_config = STRICT
    panels: ClassVar = Panels(
        "On the device",
        common=("runtime",),
        expert=("remote_dir", "python", "llama_server", "force"),
    )

    remote_dir: str = Field(
        default="edgewright",
        description="directory of the bundles on the device; relative to the home directory",
    )
    python: str = Field(
        default="python3",
        description="Python interpreter on the device that has numpy, and onnxruntime or tensorrt",
    )
    runtime: Literal["auto", "onnxruntime", "tensorrt", "llama.cpp"] = Field(
        default="auto",
        description="what generates tokens on the device; tensorrt: the engine that is built "
        "there; auto: onnxruntime or llama.cpp, whichever reads the artifact",
    )
    provider: Literal["auto", "cpu", "cuda", "tensorrt"] = Field(
        default="auto",
        description="execution provider of ONNX Runtime on the device; auto: CUDA if the device's "
        "onnxruntime has it",
    )
    llama_server: str = Field(
        default="",
        description="llama.cpp's llama-server on the device; default: on PATH, or where it is "
        "usually built",
    )
    engine: bool = Field(
        default=True, description="build a TensorRT engine on the device and time it"
    )
    threads: int | None = Field(
        default=None, gt=0, description="threads of ONNX Runtime on the device; default: all cores"
    )
    force: Annotated[bool, Cli("--force")] = Field(
        default=False, description="continue although the preflight check advises against it"
    )


class AcceptanceOptions(BaseModel):
    """What a new version has to show on the device before it becomes the current one."""

    model_config = STRICT
    panels: ClassVar = Panels("Verdict on the device")

    answers: bool = Field(
        default=True,
        description="compare answers on the device with those of the checkpoint, and score the "
        "recipe's tasks there; without it only --tasks are scored",
    )
    reference: Annotated[Path | None, Reads()] = Field(
        default=None,
        description="checkpoint to compare answers with; default: the one that the artifact was "
        "exported from, if it is beside the artifact",
    )
    questions: int = Field(
        default=16, ge=2, le=256, description="built-in prompts that are answered on the device"
    )
    answer_tokens: int = Field(
        default=32, ge=4, le=1024, description="most tokens of an answer to such a prompt"
    )
    question_seed: int = Field(default=0, ge=0, description="seed that draws the prompts")
    keep_rejected: Annotated[bool, Cli("--keep-rejected")] = Field(
        default=False,
        description="keep a rejected version on the device, in rejected/, instead of deleting it",
    )


class HostOptions(BaseModel):
    """How a device is reached over SSH."""

    model_config = STRICT
    panels: ClassVar = Panels("SSH", common=("host",))

    host: str = Field(default="", description="USER@HOST; without it, give --out")
    port: int = Field(default=22, ge=1, le=65535, description="port of the SSH server")
    identity: Annotated[Path | None, Reads()] = Field(
        default=None,
        description="private key file; default: ssh-agent, and the keys in ~/.ssh",
    )
    known_hosts: Annotated[Path, Reads()] = Field(
        default=Path("~/.ssh/known_hosts"), description="file of known host keys"
    )
    accept_new_host_key: Annotated[bool, Cli("--accept-new-host-key")] = Field(
        default=False, description="store the key of a host that is not known yet"
    )
