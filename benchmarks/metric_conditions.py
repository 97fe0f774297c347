"""What must be equal before two values of a metric may be compared, by kind of metric."""

from __future__ import annotations

from dataclasses import replace

from .metric import Conditions

__all__ = [
    "AGAINST_REFERENCE",
    "ANSWERS",
    "DEVICE",
    "ENGINE",
    "LM_EVAL",
    "LOAD",
    "LOADING",
    "MEMORY",
    "QUESTIONS",
    "TARGET",
    "TEXT",
    "TIMING",
]

TASK_IDENTITY = ("shots_used/<task>", "task_version/<task>", "problems_hash/<task>")
DTYPE = ("dtype/<task>",)
"""Recorded by torch alone, so that a checkpoint is compared with its artifact in any precision."""
QUESTIONS = Conditions(
    recorded=("problems/<task>",),
    equal=("shots/<task>", "framing/<task>"),
    unless_older=(*TASK_IDENTITY, "max_new_tokens/<task>"),
    if_recorded=DTYPE,
)
LM_EVAL = Conditions((*QUESTIONS.recorded, *TASK_IDENTITY), if_recorded=DTYPE)
TEXT = Conditions(recorded=("data_hash/<data>", "seq_len/<data>"))
AGAINST_REFERENCE = replace(TEXT, unless_older=("reference/<data>",))
ANSWERS = Conditions(recorded=("answers",))
"""The prompts, and the checkpoint whose answers to them are the right ones."""
BOARD = ("board", "power_mode")
"""Recorded by `deploy` alone, so that a device is never compared with the machine that exported."""
RUNTIME = ("backend",)
TIMING = Conditions(recorded=("device", "threads", "latency"), equal=BOARD, factor=RUNTIME)
LOADING = Conditions(recorded=("device", "threads"), equal=BOARD, factor=RUNTIME)
MEMORY = Conditions(recorded=("device", "latency"), equal=BOARD, factor=RUNTIME)
DEVICE = Conditions(recorded=BOARD)
ENGINE = Conditions(recorded=("engine", *BOARD))
TARGET = Conditions(recorded=("target",))
LOAD = Conditions(recorded=("endpoint", "load/<load>"))
"""A server says nothing about its machine: its host stands for it, and the user knows the rest."""
