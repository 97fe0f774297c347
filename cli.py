"""The command line: the verbs of `commands`, and errors turned into exit codes.

Results go to standard output, progress and messages to standard error.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from . import __version__
from .commands.groups import HELP, AllVerbs
from .commands.interruption import INTERRUPTED
from .console import complain, console, print_traceback

app = typer.Typer(
    name="edgewright",
    cls=AllVerbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=HELP,
)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="print the version")] = False,
) -> None:
    """Make a Hugging Face language model fit, and run well, on an NVIDIA Jetson Orin.

    Begin with `edgewright demo`, or with `edgewright init` for a model of yours. Every verb has
    examples: `edgewright VERB --help`.

    Exit codes: 0 done, 2 bad usage or recipe, 3 refused by plan or target, 4 parity failed,
    5 gate failed, 1 anything else.
    """
    if version:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; turn an error into one message and its exit code."""
    try:
        app(prog_name="edgewright")
    except KeyboardInterrupt:  # before or after the work, where nothing is in progress
        console.print("interrupted; run the same command again", highlight=False)
        sys.exit(INTERRUPTED)
    except SystemExit:
        raise
    except BaseException as error:  # libraries raise what they like, such as panics of Rust
        if "--debug" in sys.argv:
            sys.excepthook = print_traceback
            raise
        sys.exit(complain(error))


if __name__ == "__main__":
    main()
