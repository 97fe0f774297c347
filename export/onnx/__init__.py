"""Writes a checkpoint as an ONNX graph, compares it with torch, and runs it."""
