"""Run an artifact in an execution provider of ONNX Runtime: CUDA or TensorRT on a Jetson's GPU.

The cache stays in the provider's memory: its outputs are bound there and are the next step's
inputs, so only tokens and logits cross between host and device. The same code runs on the CPU, and
is tested there. It was not run on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ...errors import UsageError
from .runtime import Cache, OnnxDecoder

__all__ = ["PROVIDERS", "ProviderDecoder", "providers_for"]

PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}
"""Name -> ONNX Runtime's providers. Later ones run the nodes that earlier ones cannot."""


def providers_for(name: str) -> tuple[str, ...]:
    """The providers of a name; `auto`: CUDA if this onnxruntime has it, else the CPU.

    Raises:
        UsageError: this onnxruntime does not have the provider.
    """
    available = ort.get_available_providers()
    if name == "auto":
        name = "cuda" if PROVIDERS["cuda"][0] in available else "cpu"
    if PROVIDERS[name][0] not in available:
        raise UsageError(
            f"onnxruntime {ort.__version__} here has no {PROVIDERS[name][0]}",
            "install onnxruntime-gpu for this JetPack, or use --provider cpu",
        )
    return PROVIDERS[name]


class ProviderDecoder(OnnxDecoder):
    """A decoder whose cache is in a provider's memory.

    Args:
        path: the artifact directory, or its model file.
        threads: number of threads of what runs on the CPU.
        providers: ONNX Runtime's providers, the preferred one first.

    Attributes:
        provider: the name in `PROVIDERS` of what is used. ONNX Runtime falls back to the CPU by
            itself if a provider's libraries cannot be loaded.
        details: the version of ONNX Runtime.
        place: where the cache is: `cpu` or `cuda`.
    """

    def __init__(
        self, path: str | Path, threads: int | None = None, providers: Sequence[str] = ()
    ) -> None:
        self.providers = tuple(providers) or PROVIDERS["cpu"]
        super().__init__(path, threads)
        inputs = (value.name for value in self.session.get_inputs())
        self._caches = [name for name in inputs if name.startswith("past_key_values.")]
        used = self.session.get_providers()[0]
        self.provider = next(name for name, found in PROVIDERS.items() if found[0] == used)
        self.place = "cpu" if self.provider == "cpu" else "cuda"
        self.details = {"version": ort.__version__}

    def open_cache(self, batch: int, positions: int = 0) -> Cache:
        """See `OnnxDecoder.open_cache`; the cache is in the provider's memory."""
        cache = super().open_cache(batch, positions)
        if self.place != "cpu":
            cache.past = [
                ort.OrtValue.ortvalue_from_numpy(value.numpy(), self.place, 0)
                for value in cache.past
            ]
        return cache

    def step(
        self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64], cache: Cache
    ) -> NDArray[np.float32]:
        """See `OnnxDecoder.step`."""
        if self.in_place:  # its binding names the same memory for past and present
            return super().step(input_ids, attention_mask, cache)
        binding = self.session.io_binding()
        integers = self._integers(input_ids, attention_mask, None, cache.past[0].shape()[2])
        for name, value in [*integers.items(), *zip(self._caches, cache.past, strict=True)]:
            binding.bind_ortvalue_input(name, value)
        binding.bind_output("logits")
        for name in self._caches:
            binding.bind_output(name.replace("past_key_values", "present"), self.place)
        self.session.run_with_iobinding(binding)
        logits, *cache.past = binding.get_outputs()
        cache.length += input_ids.shape[1]
        return logits.numpy()
