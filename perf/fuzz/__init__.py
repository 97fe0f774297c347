"""Gives every reader of files thousands of damaged ones, and reports what it did not expect.

    python -m edgewright.perf.fuzz --cases 20000 --seed 0

A case begins as a valid file and is changed in a few places: values of other types, numbers out of
all bounds, keys twice, text cut off, bytes flipped. The reader may accept it or raise an error of
edgewright. Findings are all other exceptions, more than ten seconds of processor time, a file
written or opened for writing outside the folder of the case, a process, a connection, a pickle.
"""
