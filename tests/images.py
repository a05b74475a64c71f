"""Image comparison that fonts do not break: text is taken out, the rest is compared when small."""

from __future__ import annotations

import os
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread, imsave
from matplotlib.legend import Legend
from matplotlib.text import Text
from packaging.version import Version

BASELINES = Path(__file__).with_name("baseline")
DRAWN_WITH = Version("3.11")
#: Dots per inch of a stored image; a figure of five inches is 200 pixels wide.
DPI = 40
#: Root mean square difference (of 1) after blurring. A colour or a marker that changes, a curve
#: that is missing and a panel that moves are above; another version of the renderer is below.
TOLERANCE = 0.02


def render(figure: Figure) -> np.ndarray:
    """Grey-level-free picture of a figure without its texts, (height, width, 3) in [0, 1]."""
    for artist in figure.findobj(lambda a: isinstance(a, Text | Legend)):
        artist.set_visible(False)
    for ax in figure.get_axes():
        ax.tick_params(labelleft=False, labelbottom=False, labelright=False)
    figure.set_dpi(DPI)
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3] / 255.0


def assert_looks_as_before(figure: Figure, name: str, folder: Path) -> None:
    """Compare with ``tests/baseline/NAME.png``; UPDATE_FIGURES=1 writes it anew."""
    found = render(figure)
    path = BASELINES / f"{name}.png"
    if os.environ.get("UPDATE_FIGURES"):
        path.parent.mkdir(exist_ok=True)
        imsave(path, found)
        return
    assert path.is_file(), f"no baseline for {name}: look at it, then run with UPDATE_FIGURES=1"
    if Version(matplotlib.__version__) < DRAWN_WITH:
        pytest.skip(f"pictures were drawn with matplotlib {DRAWN_WITH}, which lays out otherwise")
    wanted = imread(path)[..., :3]
    imsave(folder / f"{name}.png", found)
    assert found.shape == wanted.shape, f"{name} has another size; see {folder / name}.png"
    difference = float(np.sqrt(np.mean((_blurred(found) - _blurred(wanted)) ** 2)))
    assert difference < TOLERANCE, f"{name} differs by {difference:.3f}; see {folder / name}.png"


def _blurred(image: np.ndarray) -> np.ndarray:
    """Means of blocks of three pixels: lines that move by one are the same."""
    h, w = (n - n % 3 for n in image.shape[:2])
    return image[:h, :w].reshape(h // 3, 3, w // 3, 3, 3).mean(axis=(1, 3))
