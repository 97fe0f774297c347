"""Compares a candidate with a baseline under a policy: pass, fail or inconclusive."""
