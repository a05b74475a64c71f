"""``--config FILE``: options from a TOML file, or from the settings.json of an earlier run."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from cellfuse._errors import missing_key

__all__ = ["read_config", "take_config"]

#: Tables that are handed on as they are, to what takes any argument.
FREE = ("setup", "model", "train")
#: Options of the command line by the names that `settings.json` has for them.
FROM_SETTINGS = {"context_keys": "context"}
#: Never taken from a file.
OWN = ("config", "debug", "help")


def read_config(path: str | Path) -> dict[str, Any]:
    """Read a TOML file, or the settings of a ``settings.json``."""
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {str(file)!r} (--config).")
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".json":
            table = json.loads(text)
            table = table.get("settings", table)
            return {name: value for name, value in table.items() if value not in (None, "None")}
        return tomllib.loads(text)
    except (UnicodeDecodeError, ValueError, AttributeError) as error:
        raise ValueError(f"{str(file)!r} (--config) could not be read: {error}") from error


def take_config(context: typer.Context, path: str | None) -> str | None:
    """Make the file's values the defaults of the command's options.

    Raises
    ------
    FileNotFoundError, ValueError
        No such file, or no TOML.
    KeyError
        A key that is no option of this command.
    """
    if path is None or context.resilient_parsing:
        return path
    table = read_config(path)
    known = {p.name: p for p in context.command.params if p.name and p.name not in OWN}
    defaults: dict[str, Any] = {}
    free: dict[str, Any] = {}
    for key, value in table.items():
        name = FROM_SETTINGS.get(key, key).replace("-", "_")
        if name in FREE and isinstance(value, Mapping):
            free[name] = dict(value)
        elif name not in known:
            raise missing_key(
                key,
                [str(n).replace("_", "-") for n in known],
                what=f"the options of `{context.command_path}` ({path!r})",
            )
        else:
            defaults[name] = _text(value)
    context.default_map = {**(context.default_map or {}), **defaults}
    context.obj = free
    return path


def _text(value: Any) -> Any:
    """Write lists and tables as the command line has them."""
    if isinstance(value, Mapping):
        return ",".join(f"{key}={part or ''}" for key, part in value.items())
    if isinstance(value, list):
        return ",".join(map(str, value))
    return value
