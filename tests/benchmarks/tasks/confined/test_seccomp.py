"""The filter of system calls, run in an interpreter of its instructions."""

from __future__ import annotations

import errno
import struct

import pytest

from edgewright.benchmarks.tasks.confined.seccomp import ARCHITECTURES, filter_program

PID = 4711
ALLOWED, KILLED = "allowed", "killed"
CALLS = {
    "x86_64": {"read": 0, "clone": 56, "kill": 62, "socket": 41, "prctl": 157, "chmod": 90},
    "aarch64": {"read": 63, "clone": 220, "kill": 129, "socket": 198, "prctl": 167, "chmod": 52},
}


def verdict(
    machine: str, number: int, *arguments: int, arch: int = 0, metadata: bool = True
) -> str:
    """What the filter decides on a call."""
    padded = (*arguments, *[0] * (6 - len(arguments)))
    data = struct.pack("<iIQ6Q", number, arch or ARCHITECTURES[machine], 0, *padded)
    code = filter_program(machine, PID, metadata)
    at = value = 0
    while True:
        operation, yes, no, operand = struct.unpack_from("<HBBI", code, 8 * at)
        at += 1
        if operation == 0x20:
            value = struct.unpack_from("<I", data, operand)[0]
        elif operation == 0x06:
            kind, detail = operand & 0xFFFF0000, operand & 0xFFFF
            names = {0x7FFF0000: ALLOWED, 0x80000000: KILLED}
            return names.get(kind) or errno.errorcode[detail]
        else:
            tests = {
                0x15: value == operand,
                0x35: value >= operand,
                0x45: bool(value & operand),
            }
            at += yes if tests[operation] else no


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_what_is_let_through(machine: str) -> None:
    calls = CALLS[machine]
    assert verdict(machine, calls["read"]) == ALLOWED
    assert verdict(machine, calls["socket"]) == "EPERM"
    assert verdict(machine, calls["clone"], 0x10F00) == ALLOWED
    assert verdict(machine, calls["clone"], 17) == "EPERM"
    assert verdict(machine, calls["kill"], PID, 15) == ALLOWED
    assert verdict(machine, calls["kill"], PID + 1, 15) == "EPERM"
    assert verdict(machine, calls["kill"], (1 << 32) - 1, 9) == "EPERM"
    assert verdict(machine, calls["prctl"], 15) == ALLOWED
    assert verdict(machine, calls["prctl"], 1) == "EPERM"
    assert verdict(machine, calls["chmod"]) == ALLOWED
    assert verdict(machine, calls["chmod"], metadata=False) == "EPERM"


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_calls_that_are_not_known_are_not_there(machine: str) -> None:
    """A newer kernel has calls that nobody judged yet."""
    assert verdict(machine, 437) == ALLOWED
    assert {verdict(machine, number) for number in (424, 425, 434, 435, 442, 463, 900)} == {
        "ENOSYS"
    }


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_other_architectures_are_not_served(machine: str) -> None:
    assert verdict(machine, 0, arch=0x40000003) == KILLED
    assert verdict(machine, 0x40000000 + 39) == KILLED
