"""Measures models: accuracy, perplexity, latency, memory; and judges and reports the results."""
