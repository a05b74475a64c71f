"""The one style of all figures: what a context sets, and which colour belongs to what."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cellfuse._errors import missing_key

__all__ = [
    "COLOURS",
    "CONTROL",
    "DIVERGING",
    "GREY",
    "METHODS",
    "Palette",
    "colours_of",
    "curve_styles",
    "is_twin",
    "label_colours",
    "method_colour",
    "style",
]

STYLE_FILE = Path(__file__).with_name("cellfuse.mplstyle")

#: The style file's cycle: Okabe and Ito's six, then Tol's muted ones.
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#882255",
    "#332288",
    "#999933",
    "#117733",
    "#AA4499",
    "#8C6D31",
)
DASHES = ("-", "--", "-.", ":")
#: What is only there to compare with: chance, other labels.
GREY = "#767676"
#: Controls and cells without a label of interest.
CONTROL = "#C8C8C8"
DIVERGING = "RdBu_r"

#: One colour per method in all figures; names are compared without case and punctuation.
METHODS = {
    "petri": "#0072B2",
    "sharedaxes": "#D55E00",
    "phenoseq": "#009E73",
    "semiclipped": "#CC79A7",
    "tide": "#E69F00",
    "groove": "#56B4E9",
    "clip": "#882255",
    "groupclip": "#AA4499",
    "crossmodalae": "#117733",
    "mae": "#332288",
    "dino": "#999933",
    "scvi": "#8C6D31",
    "pca": "#4D4D4D",
    "plainfeatures": "#4D4D4D",
    "plain": "#4D4D4D",
    "ridge": "#4D4D4D",
    "concatenation": "#8A8A8A",
    "latefusion": "#8A8A8A",
    "cca": "#8A8A8A",
    "random": "#B3B3B3",
    "chance": "#B3B3B3",
}
#: Words by which the control of a method is known: drawn in its colour, open or dashed.
TWINS = ("permuted", "untrained")

Palette = str | Sequence[str] | Mapping[str, str] | None


@contextmanager
def style() -> Iterator[None]:
    """Draw in the style of cellfuse inside a ``with`` block.

    Every function of ``cf.pl`` does so by itself. Around your own figures, or around
    ``figure.savefig``, the block gives them the same look: colours that readers with any colour
    vision tell apart, text that stays text in a PDF, 300 dpi. What you have set yourself, by
    ``matplotlib.rcParams`` or :func:`scanpy.set_figure_params`, stays as it is; after the block
    everything is as before.

    Examples
    --------
    >>> import matplotlib
    >>> import cellfuse as cf
    >>> with cf.pl.style():
    ...     matplotlib.rcParams["pdf.fonttype"]
    42
    """
    import matplotlib

    ours = matplotlib.rc_params_from_file(STYLE_FILE, use_default_template=False)
    now, default = matplotlib.rcParams, matplotlib.rcParamsDefault
    # Asked key by key: reading the backend would choose one.
    interactive = matplotlib.is_interactive()
    try:
        with matplotlib.rc_context({k: v for k, v in ours.items() if now[k] == default[k]}):
            try:
                yield
            finally:
                interactive = matplotlib.is_interactive()
    finally:
        # The first figure loads the backend, and that of notebooks switches this on: were it
        # taken back with the rest, no further figure would be shown.
        matplotlib.interactive(interactive)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def method_colour(name: str) -> str | None:
    """Colour of a method, named alone or in front (``"PETRI, image"``); None of an unknown one."""
    plain = _plain(name)
    for word in TWINS:
        plain = plain.replace(word, "")
    known = [key for key in METHODS if plain.startswith(key)]
    return METHODS[max(known, key=len)] if known else None


def is_twin(name: str) -> bool:
    """Tell the permuted or untrained twin of a method, which is drawn open or dashed."""
    return any(word in _plain(name) for word in TWINS)


def colours_of(names: Iterable[str], palette: Palette = None) -> dict[str, str]:
    """Colour of each name: the palette's, else the method's own, else the next that is free.

    Parameters
    ----------
    palette
        Colours by name, a list of them in the order of the names, or the name of a matplotlib
        colour map.

    Raises
    ------
    KeyError
        A name that the palette lacks, or no such colour map.
    ValueError
        Fewer colours than names.
    """
    named = list(dict.fromkeys(names))
    if palette is None:
        own = {name: method_colour(name) for name in named}
        free = [colour for colour in COLOURS if colour not in own.values()] or list(COLOURS)
        rest = [name for name in named if own[name] is None]
        return {name: colour or free[rest.index(name) % len(free)] for name, colour in own.items()}
    if isinstance(palette, Mapping):
        for name in named:
            if name not in palette:
                raise missing_key(name, list(palette), what="`palette`")
        return {name: palette[name] for name in named}
    colours = _from_map(palette, len(named)) if isinstance(palette, str) else list(palette)
    if len(colours) < len(named):
        raise ValueError(f"`palette` has {len(colours)} colours for {len(named)} names.")
    return dict(zip(named, colours, strict=False))


def _from_map(name: str, n: int) -> list[str]:
    import matplotlib
    from matplotlib.colors import ListedColormap, to_hex

    if name not in matplotlib.colormaps:
        raise missing_key(name, list(matplotlib.colormaps), what="matplotlib's colour maps")
    chosen = matplotlib.colormaps[name]
    if isinstance(chosen, ListedColormap) and chosen.N <= 32:  # one of separate colours
        return [to_hex(chosen(k % chosen.N)) for k in range(n)]
    return [to_hex(chosen((k + 0.5) / n)) for k in range(n)]


def curve_styles(names: Iterable[str], palette: Palette = None) -> dict[str, dict[str, Any]]:
    """Colour and dashes of each curve: curves of one colour differ in their dashes."""
    styles: dict[str, dict[str, Any]] = {}
    used: dict[str, int] = {}
    for name, colour in colours_of(names, palette).items():
        k = used.get(colour, 0) + (is_twin(name) and colour not in used)
        styles[name] = {"color": colour, "linestyle": DASHES[k % len(DASHES)]}
        used[colour] = k + 1
    return styles


def label_colours(
    labels: Iterable[str],
    *,
    control: Iterable[str] = (),
    palette: Palette = None,
    n_colours: int = len(COLOURS),
) -> dict[str, str]:
    """Colours of the most frequent labels; the others and the controls are grey.

    More hues than `n_colours` are confetti: nobody finds in the plot what the legend names.
    """
    from collections import Counter

    grey = set(control)
    counts = Counter(label for label in labels if label not in grey)
    names = list(counts)
    if palette is None:
        if len(names) > n_colours:
            names = [name for name, _ in sorted(counts.items(), key=lambda x: (-x[1], x[0]))]
        return dict(zip(sorted(names[:n_colours]), COLOURS, strict=False))
    return colours_of(sorted(names), palette)
