"""Writes an ONNX graph for TensorRT, and asks NVIDIA's parser and builder about it."""
