"""Generates text with a model: rows that end are replaced, and the cache is written in place."""
