"""Lets a teacher write out its reasoning, and keeps what is right as training data."""
