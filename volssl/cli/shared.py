"""What the commands share: the application, options that several take, and how each of them ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from volssl.progress import say

NOTICE = "volssl is research software and no medical device."

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Self-supervised learning on 3D CT and MR volumes, from the archive's folder to a MONAI bundle.",
    epilog=f"{NOTICE} Add --debug to any command for the full traceback of an error.",
)

StoreArgument = Annotated[Path, typer.Argument(help="What `volssl prepare` wrote.")]
StoreOption = Annotated[Path, typer.Option(help="What `volssl prepare` wrote.")]
LabelsOption = Annotated[Path, typer.Option(help="A CSV keyed by `study`.")]
ModalityOption = Annotated[str | None, typer.Option(help="CT or MR, for files that do not say.")]
KeyOption = Annotated[Path | None, typer.Option(help="Key of the hashes; made on first use where left out.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Config entries, or keywords of an object in it: method::epsilon=0.05"),
]


def wrote(*paths: Path) -> None:
    """Name the files that a command wrote."""
    for path in paths:
        if path.exists():
            say(f"wrote {path}")


def then(command: str) -> None:
    """Name the command to run next."""
    say(f"next: {command}")


def result(as_json: bool, value: Any) -> None:
    """Print a result for machines, where asked."""
    if as_json:
        typer.echo(json.dumps(value, indent=2))
