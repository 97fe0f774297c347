"""An artifact that is planned for a target: what the target rules look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..models import Architecture, ExportFormat
from .platform_profile import JetPack
from .prediction import Prediction
from .profile import Target
from .violation import Violation
from .workload import Workload

__all__ = ["ArtifactPlan", "ArtifactSpec"]


@dataclass(frozen=True)
class ArtifactSpec:
    """How a model is exported, as far as the target rules depend on it.

    Attributes:
        format: name of an export format.
        sym: whether INT4 is symmetric.
        act_order_g_idx: whether the input channels of INT4 groups are reordered, so that `g_idx` is
            not the identity.
        opset: ONNX opset of the artifact; None: the one that `export` uses.
        last_logits: whether the graph gives logits of the last position only.
        written_here: whether edgewright is to write it, so that what its exporters cannot write is
            refused. Otherwise that is a note, because another tool may write it.
    """

    format: str = "onnx"
    sym: bool = True
    act_order_g_idx: bool = False
    opset: int | None = None
    last_logits: bool = False
    written_here: bool = True


@dataclass(frozen=True)
class ArtifactPlan:
    """An artifact on a target; see `rules.check`.

    Attributes:
        target: the device.
        model: the architecture.
        workload: how the model is stored and used.
        spec: how it is exported.
        format: the declaration of the format.
        opset: ONNX opset of the artifact.
        jetpack: the JetPack release on the device, if known.
        prediction: the memory that the model needs.
    """

    target: Target
    model: Architecture
    workload: Workload
    spec: ArtifactSpec
    format: ExportFormat
    opset: int
    jetpack: JetPack | None
    prediction: Prediction

    @property
    def precision(self) -> str:
        """Precision of the linear layers."""
        return self.workload.precision

    @property
    def group_size(self) -> int:
        """Input channels that share an INT4 scale; -1: the whole width."""
        return self.workload.group_size

    @property
    def releases(self) -> Sequence[JetPack]:
        """The JetPack releases that count."""
        return [self.jetpack] if self.jetpack else self.target.releases()

    @property
    def jetson(self) -> bool:
        """Whether the target is a Jetson."""
        return self.target.platform.kind == "jetson"

    @property
    def onnxruntime(self) -> bool:
        """Whether ONNX Runtime reads the artifact."""
        return "onnxruntime" in self.format.runtimes

    @property
    def tensorrt(self) -> bool:
        """Whether TensorRT reads the artifact, so that its limits apply.

        A portable `onnx` is held to them too, as `trtexec` reads it on the device.
        """
        return "tensorrt" in self.format.runtimes

    @property
    def edge_llm(self) -> bool:
        """Whether TensorRT-Edge-LLM reads the artifact, which has kernels of its own."""
        return "edge-llm" in self.format.runtimes

    @property
    def nvidia_kernels(self) -> bool:
        """Whether the INT4 kernels of TensorRT or TensorRT-Edge-LLM run the artifact."""
        return self.tensorrt or self.edge_llm

    def limited_to_newer(
        self, bad: Sequence[JetPack], rule: str, message: str, nearest: str
    ) -> Iterator[Violation]:
        """A limit of some JetPack releases.

        A refusal if all releases that count have it; else a note that names the others.

        Args:
            bad: releases with the limit.
            rule: see `Violation`.
            message: the limit; the names of the releases are added.
            nearest: the nearest thing that runs on the releases with the limit.
        """
        if not bad:
            return
        names = [release.name for release in bad]
        every = [release.name for release in self.releases]
        good = [name for name in every if name not in names]
        where = (
            f" on JetPack {', '.join(names)}"
            if good or self.jetpack
            else " on every JetPack listed"
        )
        later = (
            f"{good[0]} or later"
            if len(good) > 1 and good == every[-len(good) :]
            else " or ".join(good)
        )
        cure = f"JetPack {later}, or {nearest}" if good else nearest
        yield Violation(rule, message + where, cure, "note" if good else "refuse", tuple(names))
