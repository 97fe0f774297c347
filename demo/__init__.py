"""The embedded tiny reasoner: a 7 M teacher, a 3 M base student, and the script that trained them."""
