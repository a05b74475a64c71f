"""The command line: ``cellfuse demo | train | embed | score | benchmark | report | info``.

Nothing heavy is imported before the arguments, the files and the columns they name were checked:
a wrong one is answered in the first second, in one line, with exit code 2.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]

#: What a wrong argument, column or file raises; anything else is a fault of the program.
USER_ERRORS = (ImportError, KeyError, OSError, TypeError, ValueError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv
        Arguments; None takes the process's.

    Returns
    -------
    Exit status: 0, 1 for a fault of the program, 2 for a wrong argument, column or file, 130 for
    an interrupt.
    """
    from cellfuse._console import own_notes, to_error
    from cellfuse.cli._app import Interrupted, UsageError, command

    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    called = " ".join(["cellfuse", *(a for a in arguments[:1] if not a.startswith("-"))])
    debug = "--debug" in arguments
    try:
        with own_notes(to_error):
            return int(command().main(arguments, prog_name="cellfuse", standalone_mode=False) or 0)
    except UsageError as error:
        # A command that there is not has no help of its own.
        known = error.ctx.command_path if error.ctx else called
        to_error(f"{known}: error: {_line(error.format_message())} (see `{known} --help`)")
        return 2
    except Interrupted as error:
        cause = error.__cause__ or error
        text = f" {_line(cause)}" if str(cause) else ""
        to_error(f"\n{called}: interrupted.{text}{_notes(cause)}")
        return 130
    except USER_ERRORS as error:
        if debug:
            raise
        to_error(f"{called}: error: {_line(error)}{_notes(error)} (--debug shows the traceback)")
        return 2
    except Exception as error:
        if debug:
            raise
        to_error(
            f"{called}: a fault of cellfuse: {type(error).__name__}: {_line(error)}{_notes(error)} "
            "Please report it with what --debug and `cellfuse info` show."
        )
        return 1


def _line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _notes(error: BaseException) -> str:
    return "".join(f" {note}" for note in getattr(error, "__notes__", ()))


if __name__ == "__main__":
    sys.exit(main())
