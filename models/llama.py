"""Llama 2 and 3, and what copies them."""

from .family import Family

FAMILY = Family(model_types=("llama",))
