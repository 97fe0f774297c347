"""Writes a checkpoint as a model repository of NVIDIA's Triton server."""
