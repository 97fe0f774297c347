"""Scripts that write pictures and pages of the documentation; not shipped in the wheel."""
