"""The application: which commands there are."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Annotated, Any

import typer

from cellfuse import __version__
from cellfuse.cli._bench import benchmark, report, score
from cellfuse.cli._demo import demo
from cellfuse.cli._embed import embed
from cellfuse.cli._info import info
from cellfuse.cli._train import train

__all__ = ["Interrupted", "UsageError", "command"]

#: Typer brings its own click since 0.26; the class of its errors is in the line of this one.
UsageError: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        print(f"cellfuse {__version__}")
        raise typer.Exit


@app.callback()
def _whole(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """One space for perturbation screens that were read out twice: by microscopy and by expression.

    Begin with `cellfuse demo`; `cellfuse COMMAND --help` explains each command.
    """


class Interrupted(BaseException):
    """Ctrl-C, which typer would answer without what the library says of it."""


def _interruptible(function: Callable[..., None]) -> Callable[..., None]:
    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except KeyboardInterrupt as error:
            raise Interrupted(error) from error

    return run


for function in (demo, train, embed, score, benchmark, report, info):
    app.command(function.__name__)(_interruptible(function))


@cache
def command() -> Any:
    """Return the command that click runs."""
    return typer.main.get_command(app)
