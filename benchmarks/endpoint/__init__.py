"""Measures a server: streaming requests at a chosen load, and the times of their tokens."""
