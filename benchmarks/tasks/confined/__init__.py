"""What runs inside the sandbox: the process with the program, and the one with its tests.

Python starts these files without edgewright, with `-I -S`. So they import the standard library and
each other, and nothing else.
"""
