"""Times models and measures their memory and energy, each in a process of its own."""
