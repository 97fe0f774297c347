"""The command line: registers the verbs of `commands`, and turns errors into exit codes.

Results go to standard output, progress and messages to standard error.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from . import __version__
from .commands import compress, deliver, measure, project
from .commands.interruption import INTERRUPTED
from .console import complain, console, print_traceback

WIDEST = 140
"""Columns of a help page on a terminal that is wider than that."""

app = typer.Typer(
    name="edgewright",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDEST},
)
targets_app = typer.Typer(invoke_without_command=True)
recipe_app = typer.Typer(no_args_is_help=True, help="Describe what a recipe may contain.")
app.add_typer(targets_app, name="targets")
app.add_typer(recipe_app, name="recipe")


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="print the version")] = False,
) -> None:
    """Make a Hugging Face language model fit, and run well, on an NVIDIA Jetson Orin.

    Exit codes: 0 done, 2 bad usage or recipe, 3 refused by plan or target, 4 parity failed,
    5 gate failed, 1 anything else.
    """
    if version:
        print(__version__)
        raise typer.Exit


for _verb in (
    project.run,
    project.demo,
    project.plan,
    compress.prune,
    compress.traces,
    compress.distill,
    compress.iterate,
    compress.quantize,
    measure.bench,
    measure.gate,
    measure.compare,
    measure.sweep,
    measure.report,
    deliver.deploy,
    deliver.serve,
    deliver.export,
    measure.kv_study,
    project.doctor,
):
    app.command(_verb.name)(_verb.command)
targets_app.callback()(project.targets.command)
targets_app.command(project.targets_show.name)(project.targets_show.command)
targets_app.command(deliver.check.name)(deliver.check.command)
recipe_app.command(project.recipe_schema.name)(project.recipe_schema.command)


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
