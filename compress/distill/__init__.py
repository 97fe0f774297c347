"""Trains a student on a teacher's hidden states and predictions, or on data alone."""
