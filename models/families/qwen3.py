"""Qwen3: norms on q and k."""

from __future__ import annotations

from .qwen2 import WINDOWS, WindowedQwen

FAMILY = WindowedQwen("qwen3", defaults={**WINDOWS, "head_dim": 128}, qk_norm=True)
