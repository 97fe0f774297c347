"""Reads and writes model directories: which tensors are the model, and how they are packed."""
