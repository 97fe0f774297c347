"""Serving an artifact over HTTP: continuous batching over the ONNX runtime, and OpenAI's completions on top."""
