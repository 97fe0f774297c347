"""Quantize a GGUF file with llama.cpp's own quantizer.

    .compat/llama/bin/python -I llamacpp_quantize.py model-F16.gguf model-Q4_K_M.gguf Q4_K_M

It needs llama-cpp-python. The wheel of xllamacpp does not have llama.cpp's quantizer.
`edgewright export --format gguf --precision fp16` writes the file to begin with.
"""

from __future__ import annotations

import ctypes
import os
import sys
from importlib import import_module
from typing import Any


def main() -> None:
    source, out, kind = sys.argv[1:]
    llama_cpp: Any = import_module("llama_cpp")
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    settings.nthread = os.cpu_count() or 1
    if llama_cpp.llama_model_quantize(source.encode(), out.encode(), ctypes.byref(settings)):
        sys.exit(f"{source}: llama.cpp could not quantize it; its messages are above")


if __name__ == "__main__":
    main()
