"""Side-by-side measurements; not shipped in the wheel."""
