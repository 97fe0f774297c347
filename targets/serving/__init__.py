"""Serve an artifact over HTTP, with OpenAI's completions API and continuous batching."""
