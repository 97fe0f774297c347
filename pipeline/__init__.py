"""Recipes and everything that is done with a whole one: plan, run, ledger, sweep."""
