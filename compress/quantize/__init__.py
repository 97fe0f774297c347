"""Stores weights in fewer bits: GPTQ, AWQ, SmoothQuant, and rounding to nearest."""
