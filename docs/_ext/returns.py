"""Returns that are written as a paragraph are rendered as one, with their type.

numpydoc's `Returns` is a list of `name : type`, and napoleon takes each line that is not indented
for a new entry: a paragraph is broken line by line. Our docstrings say in a paragraph what comes
back, and the annotation says its type: here the two are put together before napoleon reads them.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

#: Module prefixes that a reader does not need.
SHORT = re.compile(r"\b(?:pd|np|ad|md|sp|collections\.abc|typing|anndata|mudata)\.")


def type_of(thing: Any) -> str:
    """Return annotation in short, ``""`` where there is none."""
    try:
        found = inspect.signature(thing).return_annotation
    except (TypeError, ValueError):
        return ""
    if found in (inspect.Signature.empty, None, "None"):
        return ""
    text = found if isinstance(found, str) else getattr(found, "__name__", str(found))
    return SHORT.sub("", text)


def typed(lines: list[str], kind: str) -> list[str]:
    """Indent the paragraphs of `Returns` under their type, in numpydoc's form."""
    out, inside = [], False
    for i, line in enumerate(lines):
        following = lines[i + 1] if i + 1 < len(lines) else ""
        begins = bool(line) and bool(re.fullmatch(r"-{3,}", following.strip()))
        if begins and line.strip() in ("Returns", "Yields"):
            body = _body(lines, i + 2)
            # Already `type` with an indented description.
            inside = bool(body) and not any(part.startswith(" ") for part in body[1:2])
            out.append(line)
            continue
        if begins:
            inside = False
        if (
            inside
            and re.fullmatch(r"-{3,}", line.strip())
            and out[-1].strip() in ("Returns", "Yields")
        ):
            out += [line, kind or "value"]
            continue
        out.append(f"    {line}" if inside and line else line)
    return out


def _body(lines: list[str], start: int) -> list[str]:
    return [line for line in lines[start : start + 4] if line]


def process(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Change a docstring's lines in place."""
    if what in ("function", "method", "property", "class"):
        lines[:] = typed(lines, type_of(getattr(thing, "fget", thing)))
    if what in ("attribute", "property") and lines:
        # Napoleon reads "sentence: more" on the first line of an attribute as "type: description";
        # an empty comment comes first instead.
        lines[:0] = ["..", ""]


def once(app: Sphinx, domain: str, objtype: str, content: Any) -> None:
    """Leave out autodoc's "Return type": the type stands under "Returns" already."""
    for fields in content.findall(nodes.field_list):
        names = {field[0].astext().split(" ")[0]: field for field in fields}
        if "rtype" in names and {"returns", "return"} & set(names):
            fields.remove(names["rtype"])


def setup(app: Sphinx) -> dict[str, Any]:
    """Run before napoleon, and after autodoc has written its types."""
    app.connect("autodoc-process-docstring", process, priority=400)
    app.connect("object-description-transform", once, priority=600)
    return {"parallel_read_safe": True, "version": "1"}
