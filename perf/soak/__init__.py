"""Soak test of the HTTP server: honest and hostile clients together, for minutes."""
