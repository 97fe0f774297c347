"""Prunes a little, trains, measures, and repeats."""
