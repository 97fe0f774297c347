"""The verbs of the command line: their parameters, and what they print."""
