"""Which channels of a file are taken, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cellfuse._errors import listing, missing_key

__all__ = ["Channels", "choose_channels"]

#: Names in the order in which they are wanted, or new names by old ones (or by place, from 0).
Channels = Sequence[str] | Mapping[str, str] | Mapping[int, str]


def choose_channels(
    own: Sequence[str | None], channels: Channels | None, path: Path
) -> tuple[list[int], tuple[str, ...]]:
    """Places of the channels that are wanted, and their names.

    Parameters
    ----------
    own
        Names in the file; None for a channel without one, which is called ``channel_0`` and so on.
    channels
        What is wanted. A list of names is looked up among those of the file; where these say
        nothing (there are none, or one stands twice), it names all channels by their place.
    path
        The file, for messages.

    Raises
    ------
    KeyError
        A channel is not there.
    ValueError
        A name stands for two channels, or there are not as many names as channels.
    """
    names = [name or f"channel_{i}" for i, name in enumerate(own)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if channels is None:
        if twice:
            raise ValueError(
                f"{str(path)!r} has several channels of one name: {listing(names)}. Give each a "
                f"name by its place, such as channels={[f'{n}_{i}' for i, n in enumerate(names)]}."
            )
        return list(range(len(names))), tuple(names)
    if isinstance(channels, Mapping):
        places = [_place(old, names, path) for old in channels]
        return places, tuple(map(str, channels.values()))
    wanted = list(map(str, channels))
    if (twice or None in own) and not all(names.count(name) == 1 for name in wanted):
        _check_by_place(wanted, names, path)
        return list(range(len(names))), tuple(wanted)
    return [_place(name, names, path) for name in wanted], tuple(wanted)


def _place(wanted: str | int, names: list[str], path: Path) -> int:
    if isinstance(wanted, int):
        if not 0 <= wanted < len(names):
            raise missing_key(
                wanted, range(len(names)), what=f"the places of the channels of {str(path)!r}"
            )
        return wanted
    name = str(wanted)
    if name not in names:
        raise missing_key(
            name,
            names,
            what=f"the channels of {str(path)!r}",
            fix="A dict renames them: channels={'old': 'new'}.",
        )
    if names.count(name) > 1:
        raise ValueError(
            f"{names.count(name)} channels of {str(path)!r} are called {name!r}: {listing(names)}. "
            "Name them by their place: a list of all names, or channels={0: 'new'}."
        )
    return names.index(name)


def _check_by_place(wanted: list[str], names: list[str], path: Path) -> None:
    if len(wanted) != len(names):
        kind = "without names" if names == [f"channel_{i}" for i in range(len(names))] else ""
        kind = kind or f"called {listing(names)}"
        raise ValueError(
            f"{str(path)!r} holds {len(names)} channels {kind}; {len(wanted)} names "
            f"were given: {listing(wanted)}."
        )
    for i, name in enumerate(wanted):
        if names.count(name) == 1 and names.index(name) != i:
            raise ValueError(
                f"{name!r} is channel {names.index(name)} of {str(path)!r}, and the list of "
                f"channels gives that name to channel {i}; the file has {listing(names)}."
            )
