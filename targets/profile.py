"""Target profiles: the memory, power modes and limits of a device, read from YAML.

A target is one board or module, with its memory and its power modes. It names a platform. The
platform has what all boards of a kind share: JetPack releases, precisions, and the shapes that
kernels support. Profiles come with the package, and a user can write more of them. A user's
profile may name a platform of the package.
"""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import Any, cast

from pydantic import Field, ValidationError, model_validator

from ..documents import YAML_BYTES, parse_yaml, read_text
from ..errors import UsageError, suggestion
from .platform_profile import JetPack, Platform, StrictModel

__all__ = [
    "Compute",
    "Memory",
    "PowerMode",
    "Target",
    "list_targets",
    "load_target",
    "target_names",
    "usable_bytes",
    "version_key",
]

HERE = Path(__file__).parent
HOST_SHARE = 0.8
"""Share of a CPU machine's memory that a plan may use; the rest is for the system and its user."""


class Memory(StrictModel):
    """Memory in bytes. Leave all fields out to mean the machine that edgewright runs on."""

    nominal_bytes: int | None = Field(default=None, gt=0)
    """What the board is sold with."""
    usable_bytes: int | None = Field(default=None, gt=0)
    """Memory that weights, KV cache and runtime may take together."""
    largest_buffer_bytes: int | None = Field(default=None, gt=0)
    """The largest single allocation; None if no limit is known."""
    largest_buffer_by_jetpack: dict[str, int] = Field(default_factory=dict[str, int])
    """JetPack release -> its own limit in bytes, where it differs."""


class Compute(StrictModel):
    """Compute of the whole module at its highest clock. Predictions use the power modes instead."""

    int8_tops_dense: float
    """Dense INT8 operations, in 10^12 a second."""
    fp16_tflops_dense: float
    """Dense FP16 operations, in 10^12 a second."""
    int8_tops_headline: float | None = None
    """The advertised value. It counts sparsity and DLA, which language models do not use."""


class PowerMode(StrictModel):
    """One power mode, identified by its name because ids differ between boards.

    Give either `gpu_mhz` and `sms`, from which the peak is computed, or `peak_tflops`.
    """

    name: str
    """Its name in `nvpmodel`."""
    watts: float | None = Field(default=None, gt=0)
    """The power budget in the mode's name; None for a mode without one (MAXN)."""
    gpu_mhz: float | None = Field(default=None, gt=0)
    """Highest GPU clock in MHz."""
    sms: int | None = Field(default=None, gt=0)
    """Streaming multiprocessors that are on."""
    bandwidth_gb_s: float = Field(gt=0)
    """Peak memory bandwidth in 10^9 bytes a second."""
    peak_tflops: float | None = Field(default=None, gt=0)
    """Dense FP16 peak in 10^12 operations a second, where clock and SMs do not give it."""
    min_jetpack: str | None = None
    """The first JetPack release that has the mode; None: all have it."""
    notes: str = ""
    """A sentence for people."""

    @model_validator(mode="after")
    def _has_a_peak(self) -> PowerMode:
        if self.peak_tflops is None and (self.gpu_mhz is None or self.sms is None):
            raise ValueError("give `gpu_mhz` and `sms`, or `peak_tflops`")
        return self


class Target(StrictModel):
    """A device: its platform, memory and power modes."""

    name: str
    """What `--target` takes; the file has the same name."""
    description: str = ""
    """A line for `edgewright targets`."""
    platform: Platform
    """In the file: the name of a platform of the package, or its fields."""
    part: str = ""
    """The maker's part number of the module."""
    memory: Memory
    """Its memory."""
    compute: Compute | None = None
    """The maker's figures; None: not published."""
    default_mode: str
    """Name of the power mode that predictions assume."""
    power_modes: list[PowerMode] = Field(min_length=1)
    """Its power modes."""
    sources: list[str] = Field(default_factory=list[str])
    """Where the figures are from: addresses."""
    notes: list[str] = Field(default_factory=list[str])
    """Sentences for people. Those that begin with `unconfirmed:` name unconfirmed facts."""

    @model_validator(mode="after")
    def _default_exists(self) -> Target:
        names = [mode.name for mode in self.power_modes]
        if self.default_mode not in names:
            raise ValueError(
                f"default_mode `{self.default_mode}` is none of the power modes {', '.join(names)}"
            )
        if len(set(names)) < len(names):
            raise ValueError("two power modes have the same name")
        return self

    def mode(self, name: str | None = None) -> PowerMode:
        """A power mode by its name (any case), or the default mode if there is no name.

        Raises:
            UsageError: the target has no such mode.
        """
        wanted = (name or self.default_mode).lower()
        for mode in self.power_modes:
            if mode.name.lower() == wanted:
                return mode
        names = ", ".join(mode.name for mode in self.power_modes)
        raise UsageError(
            f"{self.name}: no power mode `{name}`",
            f"use one of {names} (`nvpmodel -q` shows the active one)",
        )

    def tflops(self, mode: PowerMode) -> float:
        """Dense FP16 peak in a power mode, in 10^12 operations a second (multiply-add = two)."""
        if mode.peak_tflops is not None:
            return mode.peak_tflops
        return (mode.sms or 0) * (mode.gpu_mhz or 0.0) * self.platform.fp16_ops_per_sm_clock / 1e6

    def bandwidth(self, mode: PowerMode) -> float:
        """Bytes that the GPU can read a second in a power mode.

        In a mode with few multiprocessors and a low clock, these are slower than the memory.
        """
        peak = mode.bandwidth_gb_s * 1e9
        each = self.platform.bytes_per_sm_clock
        if each is None or mode.sms is None or mode.gpu_mhz is None:
            return peak
        return min(peak, mode.sms * mode.gpu_mhz * 1e6 * each)

    def jetpack(self, name: str) -> JetPack:
        """A JetPack release by its name. `6.2.1` finds `6.2` if only that is listed.

        Raises:
            UsageError: the platform lists no such release.
        """
        listed = {release.name: release for release in self.platform.jetpacks}
        found = listed.get(name) or listed.get(".".join(name.split(".")[:2]))
        if found is None:
            raise UsageError(
                f"{self.name}: JetPack `{name}` is not known",
                f"known: {', '.join(listed) or 'none'}",
            )
        return found

    def releases(self, name: str | None = None) -> list[JetPack]:
        """The named JetPack release, or all of the platform's releases without a name."""
        return [self.jetpack(name)] if name else self.platform.jetpacks

    def largest_buffer(self, jetpack: JetPack | None = None) -> int | None:
        """The largest single allocation in bytes (under this release), or None if unknown."""
        memory = self.memory
        if jetpack is None:
            return memory.largest_buffer_bytes
        return memory.largest_buffer_by_jetpack.get(jetpack.name, memory.largest_buffer_bytes)


def version_key(version: str) -> tuple[int, ...]:
    """A version as numbers, for comparing: `10.16.1` is newer than `10.3`."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


def usable_bytes(target: Target) -> int:
    """Bytes that weights, KV cache and runtime may take on a target.

    If the profile gives no value, this is a share of the memory of the machine at hand.
    """
    if target.memory.usable_bytes is not None:
        return target.memory.usable_bytes
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * HOST_SHARE)


def target_names() -> list[str]:
    """Names of the profiles that ship with edgewright."""
    return sorted(path.stem for path in (HERE / "profiles").glob("*.yaml"))


def list_targets() -> list[Target]:
    """All profiles that ship with edgewright, by name."""
    return [load_target(name) for name in target_names()]


def load_target(name: str | Path) -> Target:
    """Load a target by its name, or from a user's YAML file.

    Raises:
        UsageError: there is no such name or file, or the profile is not valid. All errors are
            listed.
    """
    path = Path(name)
    if path.suffix.lower() in (".yaml", ".yml") or path.is_file():
        return _read(path)
    wanted = str(name).lower()
    names = target_names()
    if wanted in names:
        return _shipped(wanted)
    near = suggestion(wanted, names, 0.3)
    raise UsageError(
        f"{name}: no such target",
        f"{near}targets: {', '.join(names)}; or give the YAML file of your own profile",
    )


@cache
def _shipped(name: str) -> Target:
    return _read(HERE / "profiles" / f"{name}.yaml")


def _read(path: Path) -> Target:
    data = _mapping(path)
    named = data.get("platform")
    if isinstance(named, str):
        file = HERE / "platforms" / f"{named}.yaml"
        known = sorted(p.stem for p in file.parent.glob("*.yaml"))
        if named not in known:
            raise UsageError(
                f"{path}: platform `{named}` is not known",
                f"use one of {', '.join(known)}, or write the platform's fields in the file",
            )
        data = {**data, "platform": _mapping(file)}
    try:
        return Target.model_validate(data)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'profile'}: {e['msg']}" for e in error.errors()
        )
        hint = "compare with `edgewright targets show jetson-orin-nano-8gb`"
        raise UsageError(f"{path}: not a valid target profile: {faults}", hint) from error


def _mapping(path: Path) -> dict[str, Any]:
    text = read_text(path, "give the name of a target or a YAML file", YAML_BYTES)
    _, data = parse_yaml(text, str(path), "fix the YAML syntax")
    if not isinstance(data, dict):
        raise UsageError(f"{path}: not a YAML mapping", "begin the file with `name: ...`")
    return cast(dict[str, Any], data)
