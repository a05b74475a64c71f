"""Pictures of all figures, from the code of the image tests: in the gallery and on `pl` pages."""

from __future__ import annotations

import inspect
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parents[1]
TESTS = DOCS.parent / "tests"
IMAGES = DOCS / "gallery_images"

HEAD = """\
# Gallery

Every figure of `cf.pl`, with the code that made it. They share one style
({{func}}`cellfuse.pl.style`), in which each method keeps its colour, and take scanpy's arguments:
`ax`, `figsize`, `title`, `show`, `save`, `return_fig`.

{rows}
"""
ENTRY = """\
## {name}

```{{image}} gallery_images/{name}.png
:alt: {alt}
:width: {width}px
```

{{func}}`cellfuse.pl.{name}`

:::{{dropdown}} Code
```python
{code}
```
:::
"""


def examples() -> Any:
    """The functions that the image tests draw."""
    sys.path.insert(0, str(TESTS))
    try:
        import figures
    finally:
        sys.path.remove(str(TESTS))
    return figures.FIGURES


def draw(app: Sphinx) -> None:
    """Draw what is missing or older than the code, and write the gallery's page."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    import cellfuse as cf

    found = examples()
    IMAGES.mkdir(exist_ok=True)
    newest = max(
        path.stat().st_mtime
        for path in [TESTS / "figures.py", *Path(cf.pl.__file__).parent.glob("*")]
        if path.is_file()
    )
    entries = []
    for name in sorted(found):
        path = IMAGES / f"{name}.png"
        if not path.is_file() or path.stat().st_mtime < newest:
            with matplotlib.rc_context({"savefig.dpi": 150}), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found[name](save=path)
            plt.close("all")
        summary = (inspect.getdoc(getattr(cf.pl, name)) or name).split("\n")[0]
        entries.append(
            ENTRY.format(name=name, alt=summary, width=_width(path), code=_code(found[name]))
        )
    page = HEAD.format(rows="\n".join(entries))
    target = DOCS / "gallery.md"
    if not target.is_file() or target.read_text(encoding="utf-8") != page:
        target.write_text(page, encoding="utf-8")


def _width(path: Path) -> int:
    """Width in CSS pixels: half of the picture's, which is sharp on screens of any density."""
    return int.from_bytes(path.read_bytes()[16:20], "big") * 2 // 3


def _code(function: Any) -> str:
    """Body of an example, without the decorator and the arguments of the test."""
    lines = textwrap.dedent(inspect.getsource(function)).split("\n")
    start = next(i for i, line in enumerate(lines) if line.startswith("def ")) + 1
    code = textwrap.dedent("\n".join(lines[start:])).strip()
    return code.replace(", **kwargs)", ")").replace("(**kwargs)", "()").replace("return ", "")


def picture(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Put the picture under the first paragraph of a function of `cf.pl`."""
    module, _, own = name.rpartition(".")
    if module != "cellfuse.pl" or not (IMAGES / f"{own}.png").is_file():
        return
    end = lines.index("") if "" in lines else len(lines)
    image = IMAGES / f"{own}.png"
    shown = ["", f".. image:: /gallery_images/{own}.png", f"   :alt: {lines[0]}"]
    lines[end:end] = [*shown, f"   :width: {_width(image)}px", ""]


def setup(app: Sphinx) -> dict[str, Any]:
    """Draw before Sphinx looks for files; put pictures in before napoleon reads the text."""
    app.connect("builder-inited", draw)
    app.connect("autodoc-process-docstring", picture, priority=300)
    return {"parallel_read_safe": False, "version": "1"}
