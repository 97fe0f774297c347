"""Tasks: what a model is asked, how it answers, and which answers are right."""
