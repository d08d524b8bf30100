"""The commands: each parses, calls one function, says what was written and what to run next."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import volssl

from volssl.cli import archive, training, evidence, bundles  # isort: skip  # the order in which --help lists them
from volssl.cli.shared import app
from volssl.errors import UsageError, file_error, unforeseen, user_error_in
from volssl.progress import is_first_process, say

INTERRUPTED = 130  # what typer makes of Ctrl-C, and shells expect
TOGETHER = ("pretrain", "estimate", "finetune")  # what several processes of torchrun do together; the rest is for one


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        typer.echo(volssl.__version__)
        raise typer.Exit
    if not is_first_process() and context.invoked_subcommand not in TOGETHER:
        raise typer.Exit


def main() -> None:
    """Run the command line; exit 0 done, 1 failed, 2 usage."""
    debug = "--debug" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--debug"]
    try:
        code = app(standalone_mode=False)
    except typer.TyperException as error:  # unknown option, missing argument, value of the wrong type
        if error.format_message():
            told = f"error: {error.format_message()} (volssl --help lists the commands and what they take)"
            say(told, every_rank=True)
        sys.exit(error.exit_code)
    except Exception as error:
        if debug:
            raise
        cause = file_error(error) or user_error_in(error)
        say(f"error: {cause or f'{unforeseen(error)} (--debug shows where)'}", every_rank=True)
        sys.exit(2 if isinstance(cause, UsageError) else 1)
    if code == INTERRUPTED:
        say("stopped")
    sys.exit(code if isinstance(code, int) else 0)


__all__ = ["app", "archive", "bundles", "evidence", "main", "training"]
