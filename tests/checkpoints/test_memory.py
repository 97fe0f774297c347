"""Freed memory is used again without new pages, and returned to the system at the end."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import ctypes, resource, sys
import torch
from edgewright.checkpoints.memory import reused_memory
if not hasattr(ctypes.CDLL(None), "mallopt"):
    sys.exit("no glibc")
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def one(size=2**24):
    before = faults()
    torch.ones(size)
    return faults() - before
def resident():
    return 1024 * int(open("/proc/self/status").read().split("VmRSS:")[1].split()[0])
one()
usual = one()
with reused_memory():
    reused = min(one() for _ in range(20))  # glibc sets the remainders of some blocks aside first
    kept = resident()
print(usual, reused, kept - resident())
"""


def test_a_freed_tensor_is_used_again() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, check=False
    )
    if done.stderr == "no glibc\n":
        pytest.skip("this C library has no mallopt")
    usual, reused, returned = map(int, done.stdout.split())
    assert reused < 0.1 * usual
    assert returned > 0.9 * 4 * 2**24
