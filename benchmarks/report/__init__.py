"""Turns ledgers into reports, comparisons, plots and model cards."""
