"""What all models do with their arguments: keep them, and show a parent's as one's own."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from inspect import Parameter, Signature, cleandoc, signature
from typing import Any, TypeVar

from cellfuse.model.base.checks import check_seed
from cellfuse.model.base.training import seeded

__all__ = ["as_in", "kept"]

F = TypeVar("F", bound=Callable[..., Any])


def kept(init: Callable[..., None]) -> Callable[..., None]:
    """``__init__`` of a model: its arguments are kept for a save, its weights drawn by its seed."""

    @wraps(init)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        if "init_arguments_" in vars(self):  # called by a subclass, whose arguments count
            return init(self, *args, **kwargs)
        bound = signature(init).bind(self, *args, **kwargs)
        bound.apply_defaults()
        arguments: dict[str, Any] = {}
        for name, value in list(bound.arguments.items())[2:]:  # neither the model nor its data
            several = bound.signature.parameters[name].kind is Parameter.VAR_KEYWORD
            arguments.update(value if several else {name: value})
        seed = arguments.get("seed", 0)
        check_seed(seed)
        self.init_arguments_ = arguments
        with seeded(seed):
            init(self, *args, **kwargs)
        self._model_summary_string = self._summary(init)
        return None

    return wrapped


def as_in(parent: Callable[..., Any], without: tuple[str, ...] = ()) -> Callable[[F], F]:
    """Show the arguments of `parent`, to which a method's ``**kwargs`` go, as its own.

    Signature and docstring then are whole: those of the method first, then those of `parent` that
    it does not name, but for `without`. A method without a docstring has the parent's.
    """

    def decorate(method: F) -> F:
        own, above = signature(method).parameters, signature(parent).parameters
        named = {name: p for name, p in own.items() if p.kind is not Parameter.VAR_KEYWORD}
        passed = {n: p for n, p in above.items() if n not in named and n not in without}
        order = sorted([*named.values(), *passed.values()], key=lambda p: int(p.kind))
        shown = Signature(order, return_annotation=signature(method).return_annotation)
        method.__signature__ = shown  # type: ignore[attr-defined]
        method.__doc__ = _joined(
            method.__doc__ or "", parent.__doc__ or "", {p.name for p in order}
        )
        return method

    return decorate


def _sections(doc: str) -> dict[str, str]:
    """Text of a numpy docstring by section; the summary under ``""``."""
    parts = re.split(r"^(\w[\w ]*)\n-{3,}\n", cleandoc(doc), flags=re.MULTILINE)
    return dict(zip(["", *parts[1::2]], [p.strip("\n") for p in parts[0::2]], strict=True))


def _entries(text: str) -> list[tuple[list[str], str]]:
    """Entries of a section, and the names that each explains."""
    parts = [part for part in re.split(r"\n(?=\S)", text) if part]
    return [([n.lstrip("*") for n in part.split("\n")[0].split(", ")], part) for part in parts]


def _joined(doc: str, above: str, shown: set[str]) -> str:
    theirs = _sections(above)
    sections = _sections(doc) if doc else {k: v for k, v in theirs.items() if k != "Parameters"}
    own = sections.get("Parameters", "")
    left = shown - {name for names, _ in _entries(own) for name in names}
    taken = [
        "\n".join([", ".join(n for n in names if n in left), *part.split("\n")[1:]])
        for names, part in _entries(theirs.get("Parameters", ""))
        if left & set(names)
    ]
    first = sections.pop("")
    text = "\n".join(filter(None, [own, *taken]))
    rest = {"Parameters": text, **{k: v for k, v in sections.items() if k != "Parameters"}}
    return "\n\n".join(
        [first, *(f"{name}\n{'-' * len(name)}\n{body}" for name, body in rest.items())]
    )
