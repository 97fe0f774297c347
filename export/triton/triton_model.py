"""Greedy generation in Triton: batch the prompts of waiting requests, and call the graph's model.

This file runs in Triton's Python backend, which provides numpy and `triton_python_backend_utils`.
`export --format triton` copies it into the repository, so it imports nothing of edgewright. The
graph runs in the ONNX Runtime backend, on the device that its config.pbtxt names.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["TritonPythonModel"]

Ints = NDArray[np.int64]


class TritonPythonModel:
    """The class that Triton loads; Triton requires this name and these methods."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the parameters of config.pbtxt."""
        # late: exists inside Triton only
        import triton_python_backend_utils  # pyright: ignore[reportMissingImports]

        self.backend: Any = triton_python_backend_utils
        parameters = json.loads(args["model_config"])["parameters"]
        settings = json.loads(parameters["decoder"]["string_value"])
        self.graph = settings["graph"]
        self.eos = settings["eos_ids"]
        self.context = settings["context"]
        self.vocab = settings["vocab_size"]
        self.caches = [
            f"{layer}.{part}" for layer in range(settings["layers"]) for part in ("key", "value")
        ]
        self.one_position = np.zeros(
            (1, settings["kv_heads"], 1, settings["head_dim"]), settings["cache_type"]
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer a batch of requests, each with its new `tokens`, int64 [rows, n].

        Short rows are filled with an end token. An invalid request gets an error, and the others
        get their answers.
        """
        asked = [self._read(request) for request in requests]
        good = [rows for rows in asked if not isinstance(rows, str)]
        made = iter(
            self._generate(
                [prompt for rows in good for prompt, _ in rows],
                [limit for rows in good for _, limit in rows],
            )
        )
        return [
            self._failure(rows)
            if isinstance(rows, str)
            else self._answer([next(made) for _ in rows])
            for rows in asked
        ]

    def _read(self, request: Any) -> list[tuple[Ints, int]] | str:
        """Prompt and maximum of new tokens of every row, or why the request is invalid."""
        ids = self.backend.get_input_tensor_by_name(request, "input_ids").as_numpy()
        masks = self.backend.get_input_tensor_by_name(request, "attention_mask")
        limits = self.backend.get_input_tensor_by_name(request, "max_tokens").as_numpy()[:, 0]
        mask = np.ones_like(ids) if masks is None else masks.as_numpy()
        rows = [
            (row[kept != 0], int(limit)) for row, kept, limit in zip(ids, mask, limits, strict=True)
        ]
        for prompt, limit in rows:
            if not len(prompt) or limit < 1:
                return "a prompt has no tokens, or max_tokens is not positive"
            if len(prompt) + limit > self.context:
                return (
                    f"{len(prompt)} prompt tokens and max_tokens {limit} are more than the context "
                    f"of {self.context}"
                )
            if prompt.min() < 0 or prompt.max() >= self.vocab:
                return f"a token id is not within the vocabulary of {self.vocab}"
        return rows

    def _generate(self, prompts: list[Ints], limits: list[int]) -> list[list[int]]:
        """The new tokens of each prompt, with the end token."""
        made: list[list[int]] = [[] for _ in prompts]
        if not prompts:
            return made
        ids, mask = _padded(prompts)
        # The cache begins with one masked position, as Triton's backends have had trouble with
        # empty tensors.
        past = {
            name: self.backend.Tensor(
                f"past_key_values.{name}", self.one_position.repeat(len(ids), 0)
            )
            for name in self.caches
        }
        mask = np.concatenate([np.zeros((len(ids), 1), np.int64), mask], 1)
        running = np.ones(len(ids), bool)
        while running.any():
            new, past = self._pass(ids, mask, past)
            for row in np.flatnonzero(running):
                made[row].append(int(new[row]))
                running[row] = len(made[row]) < limits[row] and made[row][-1] not in self.eos
            ids = new[:, None]
            mask = np.concatenate([mask, np.ones((len(ids), 1), np.int64)], 1)
        return made

    def _pass(self, ids: Ints, mask: Ints, past: dict[str, Any]) -> tuple[Ints, dict[str, Any]]:
        """One pass of the graph: the most likely next token [rows], and the cache."""
        positions = np.maximum(mask.cumsum(1) - 1, 0)[:, -ids.shape[1] :]
        arrays = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        reply = self.backend.InferenceRequest(
            model_name=self.graph,
            requested_output_names=["logits", *(f"present.{name}" for name in self.caches)],
            inputs=[
                *(
                    self.backend.Tensor(name, np.ascontiguousarray(array, np.int64))
                    for name, array in arrays.items()
                ),
                *past.values(),
            ],
            # CPU and GPU of a Jetson share one memory.
            preferred_memory=self.backend.PreferredMemory(self.backend.TRITONSERVER_MEMORY_CPU),
        ).exec()
        if reply.has_error():
            raise self.backend.TritonModelException(reply.error().message())
        logits = self.backend.get_output_tensor_by_name(reply, "logits").as_numpy()
        present = {
            name: self.backend.get_output_tensor_by_name(reply, f"present.{name}").as_numpy()
            for name in self.caches
        }
        cache = {
            name: self.backend.Tensor(f"past_key_values.{name}", array)
            for name, array in present.items()
        }
        return logits[:, -1].argmax(-1).astype(np.int64), cache

    def _answer(self, rows: list[list[int]]) -> Any:
        tokens = np.full((len(rows), max(map(len, rows))), self.eos[0] if self.eos else 0, np.int64)
        for row, made in zip(tokens, rows, strict=True):
            row[: len(made)] = made
        return self.backend.InferenceResponse(
            output_tensors=[self.backend.Tensor("tokens", tokens)]
        )

    def _failure(self, message: str) -> Any:
        return self.backend.InferenceResponse(error=self.backend.TritonError(message))


def _padded(prompts: list[Ints]) -> tuple[Ints, Ints]:
    """Prompts as one batch, padded on the left, and its mask."""
    longest = max(map(len, prompts))
    ids, mask = (np.zeros((len(prompts), longest), np.int64) for _ in range(2))
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    return ids, mask
