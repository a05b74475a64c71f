"""What every figure function does: the house's style, and the arguments that all of them take."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from cellfuse.pl._style import style

__all__ = ["drawn"]

P = ParamSpec("P")
R = TypeVar("R")

#: Stands in a docstring as ``{drawing}``.
DRAWING = """\
figsize
    Width and height of a new figure in inches; None fits them to what is drawn.
title
    Title in the place of what the figure says by itself.
show
    Whether to call ``matplotlib.pyplot.show``.
save
    Path to save the figure to, at 300 dpi. True, or a suffix such as ``"_mine.pdf"`` or
    ``".svg"``, saves it under the function's name in ``scanpy.settings.figdir``.
return_fig
    Return the figure instead of the axes."""
#: Stands in a docstring as ``{palette}``.
PALETTE = """\
palette
    Colours by name, a list of colours, or a matplotlib colour map; None: each method has its
    own colour, the same in all figures."""


def drawn(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function of ``cf.pl`` in the house's style, and fill in its shared documentation."""
    text = function.__doc__ or ""
    for name, shared in (("drawing", DRAWING), ("palette", PALETTE)):
        found = re.search(rf"^( *)\{{{name}\}}", text, re.MULTILINE)
        if found:
            indented = "\n".join(found[1] + line for line in shared.split("\n"))
            text = text.replace(found[0], indented)
    function.__doc__ = text

    @wraps(function)
    def in_style(*args: P.args, **kwargs: P.kwargs) -> R:
        with style():
            return function(*args, **kwargs)

    return in_style
