"""The command line of the equivalence check."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import __doc__ as description
from .capture import capture, record
from .compare import compare


def main() -> int:
    """Parse the arguments, run the verb, and return the exit code."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    capturing = verbs.add_parser("capture", help="run the jobs with a checkout")
    capturing.add_argument("root", type=Path)
    capturing.add_argument("out", type=Path)
    capturing.add_argument("--fresh", action="store_true", help="run all jobs, also recorded ones")
    recording = verbs.add_parser("record", help="record the files of a capture again; run nothing")
    recording.add_argument("out", type=Path)
    for verb in (capturing, recording):
        verb.add_argument("--work", type=Path, help="work folder; default: OUT.json.work")
    comparing = verbs.add_parser("compare", help="compare two captures")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    comparing.add_argument("--words", action="store_true", help="show the changed sentences")
    for verb in (capturing, recording, comparing):
        verb.add_argument("--only", default="", help="jobs by name or pattern, separated by commas")
    args = parser.parse_args()
    if args.verb == "compare":
        return compare(args.before, args.after, args.only, args.words)
    work = args.work or args.out.with_name(f"{args.out.name}.work")
    if args.verb == "capture":
        capture(args.root, args.out, args.only, work, args.fresh)
    else:
        record(args.out, args.only, work)
    return 0
