"""Writes a checkpoint as GGUF, the file format of llama.cpp."""
