"""Measurements for developers, each comparing two things side by side. Not part of the wheel."""
