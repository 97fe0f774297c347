"""Removes the heads, neurons, layers and experts that matter least, or makes weights sparse."""
