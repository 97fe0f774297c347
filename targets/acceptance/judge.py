"""The gate on what a version showed on the device, with the policy of the host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...benchmarks.gate.gate import check_gate
from ...benchmarks.gate.policy import Limit, Policy
from ...benchmarks.measurement_files import problem_samples
from ...benchmarks.metrics import find, unrecorded, why_unlike

__all__ = ["Judge", "Judgement", "Known"]

TOP1 = "answers/top1"
KL = "answers/kl"
PREFIX = "answers/prefix"
GARBAGE = "answers/garbage"
RELATIVE = ("min_ratio", "max_ratio", "max_drop")


KL_LIMIT = 0.02
"""Nats on which the KL is decided. It has no samples, so its declaration has no default limit."""
KL_MARGIN = 3.0
"""Answers differ from text: so many times the known KL is allowed beside the default limit."""


@dataclass(frozen=True)
class Known:
    """How far the artifact was from the reference when it was measured on this machine.

    The device may lose something of that, and not of a perfect copy.

    Attributes:
        agreement: top-1 agreement.
        kl: in nats.
        where: what measured it, for notes.
    """

    agreement: float = 1.0
    kl: float = 0.0
    where: str = ""


@dataclass(frozen=True)
class Judgement:
    """The result of the gate; None if there was nothing to judge by. And notes on it."""

    gate: dict[str, Any] | None
    notes: list[str]

    @property
    def accepted(self) -> bool:
        """Whether the version may become the current one."""
        return self.gate is None or bool(self.gate["accepted"])


@dataclass(frozen=True)
class Judge:
    """What versions are judged by.

    Attributes:
        policy: the limits, the confidence, and what inconclusive means.
        baseline: a measurement of the host, for the tasks; None: they are recorded only.
        known: how far the artifact is from the reference by itself.
    """

    policy: Policy
    baseline: Mapping[str, Any] | None = None
    known: Known = Known()

    def judge(self, candidate: Mapping[str, Any]) -> Judgement:
        """Judge a measurement: a mapping with `name`, `metrics`, `context` and `samples`."""
        baseline = self._with_answers(candidate)
        notes: list[str] = []
        limits = {**self._defaults(candidate, baseline), **self.policy.limits}
        for name, limit in list(limits.items()):
            if why := _why_not(name, limit, candidate, baseline):
                notes.append(f"the limit of {name} was not judged on the device: {why}")
                del limits[name]
        if not limits:
            return Judgement(None, [*notes, "nothing was judged: see --reference and --baseline"])
        policy = Policy.model_validate(
            {**self.policy.model_dump(include=set(Policy.model_fields)), "limits": limits}
        )
        return Judgement(check_gate(candidate, baseline, policy), notes)

    def _with_answers(self, candidate: Mapping[str, Any]) -> dict[str, Any]:
        """The baseline, with the answers of the checkpoint, which agrees with itself."""
        given = self.baseline or {"name": "the checkpoint", "metrics": {}, "context": {}}
        metrics = {k: v for k, v in given["metrics"].items() if not k.startswith("answers/")}
        samples: dict[str, Any] = dict(given.get("samples") or {})
        context = {**given["context"]}
        if "answers" in candidate["context"]:
            context["answers"] = candidate["context"]["answers"]
        for name, best in ((TOP1, 1.0), (KL, 0.0), (PREFIX, 1.0), (GARBAGE, 0.0)):
            if name in candidate["metrics"]:
                metrics[name] = best
                count = int(candidate["metrics"].get(f"{name}/n", 0))
                if count:
                    samples[name] = problem_samples([best == 1.0] * count)
        return {"name": given["name"], "metrics": metrics, "context": context, "samples": samples}

    def _defaults(
        self, candidate: Mapping[str, Any], baseline: Mapping[str, Any]
    ) -> dict[str, Limit]:
        """The declared limits of the answers and, without limits in the policy, of the tasks."""
        found: dict[str, Limit] = {}
        for name in candidate["metrics"]:
            metric = find(name)
            if metric is None or not metric.default_limit or name not in baseline["metrics"]:
                continue
            if name == PREFIX and TOP1 in candidate["metrics"]:
                continue
            if self.policy.limits and not name.startswith("answers/"):
                continue
            limit = Limit.model_validate(metric.default_limit)
            if name == TOP1 and limit.min_ratio is not None:
                limit = Limit(min_ratio=round(limit.min_ratio * self.known.agreement, 4))
            found[name] = limit
        if KL in candidate["metrics"]:
            found[KL] = Limit(max=round(KL_LIMIT + KL_MARGIN * self.known.kl, 4))
        return found


def _why_not(
    name: str, limit: Limit, candidate: Mapping[str, Any], baseline: Mapping[str, Any]
) -> str:
    """Why a limit cannot be judged with what the device measured; empty if it can."""
    if name not in candidate["metrics"]:
        return "it was not measured there"
    if not any(getattr(limit, field) is not None for field in RELATIVE):
        return ""
    if name not in baseline["metrics"]:
        return "the baseline has no such metric"
    contexts = (candidate["context"], baseline["context"])
    if why := why_unlike(name, *contexts):
        return why
    missing = unrecorded(name, *contexts)
    return f"the device recorded no {missing}" if missing else ""
