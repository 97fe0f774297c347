"""Measures what a KV cache in 8 or 4 bits costs in accuracy, and what it saves."""
