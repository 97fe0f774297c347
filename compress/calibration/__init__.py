"""Runs text through a model layer by layer, to see which inputs its layers get."""
