"""Scripts that make pictures for the documentation; not shipped in the wheel."""
