"""The demo model, a tiny reasoner: a 7 M teacher, a 3 M student, and the scripts that made them."""
