"""edgewright: make a Hugging Face language model fit, and run well, on an NVIDIA Jetson Orin."""

__version__ = "0.1.0"
