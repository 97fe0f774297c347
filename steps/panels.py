"""Topics of options, by which help pages are ordered."""

from __future__ import annotations

__all__ = ["COMMON", "DATA", "DEVICE", "EXPERT", "OTHER", "QUALITY", "TASKS"]

COMMON = "Common options"
"""What most people need; required options belong here too."""
DATA = "Text to calibrate on"
DEVICE = "Device"
QUALITY = "Tasks and perplexity"
TASKS = "Tasks"
OTHER = "More options"
"""Of models that name no topic."""
EXPERT = "For experts"
"""What hardly anybody needs to change."""
