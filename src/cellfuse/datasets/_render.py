"""Images of cells whose nucleus, cytoplasm, droplets and mitochondria follow a latent."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cellfuse.datasets._design import stream

CHANNELS = ("DNA", "actin", "droplets", "mitochondria", "ER", "RNA")

#: What a cell looks like: feature -> (typical value, largest log-fold change). Lengths are in half
#: image widths, so that a cell looks the same at every image size; intensities are shares of the
#: full range; granularities are wave numbers (radians per half image width).
FEATURES: dict[str, tuple[float, float]] = {
    "nucleus_size": (0.31, 0.22),
    "nucleus_elongation": (1.25, 0.18),
    "chromatin_intensity": (0.50, 0.35),
    "chromatin_texture": (0.22, 0.80),
    "cell_size": (0.63, 0.18),
    "cell_elongation": (1.25, 0.22),
    "actin_intensity": (0.36, 0.40),
    "actin_cortex": (0.70, 0.80),
    "droplet_number": (5.0, 0.90),
    "droplet_size": (0.065, 0.35),
    "droplet_brightness": (0.55, 0.40),
    "mito_intensity": (0.50, 0.40),
    "mito_granularity": (15.0, 0.35),
    "mito_perinuclear": (1.60, 0.70),
    "er_intensity": (0.45, 0.40),
    "er_extent": (0.55, 0.50),
    "nucleoli_number": (3.0, 0.60),
    "nucleoli_brightness": (0.45, 0.45),
}
#: Standard deviation of a cell's own deviation in each feature, on the scale of the latent.
FEATURE_NOISE = 0.5
#: How the DNA replicated so far acts on three features.
CYCLE = {"nucleus_size": 0.8, "chromatin_intensity": 0.5, "cell_size": 0.6}
#: Standard deviation of a cell's position, in half image widths.
POSITION_JITTER = 0.06
#: Log-standard deviation of a well's stain intensity per channel, and of its glare (additive).
WELL_GAIN = 0.2
WELL_GLARE = 0.02
#: Intensity without any cell; noise of the detector and of the light (per square root).
GLARE = 0.04
READ_NOISE = 0.015
SHOT_NOISE = 0.04
MAX_DROPLETS = 16
MAX_NUCLEOLI = 6
N_WAVES = 8


def draw_features(latent: np.ndarray, phase: np.ndarray, *, seed: int) -> dict[str, np.ndarray]:
    """Features of every cell as bounded functions ``typical * exp(largest * tanh(activation))``.

    The activation is a weighted sum of the latent (weights of unit length, drawn once per screen),
    the cell cycle and the cell's own deviation.
    """
    n, n_latent = latent.shape
    weights = stream(seed, "weights").standard_normal((n_latent, len(FEATURES)))
    weights /= np.linalg.norm(weights, axis=0)
    own = stream(seed, "features").standard_normal((n, len(FEATURES)))
    activation = latent @ weights + FEATURE_NOISE * own
    replicated = -np.cos(phase)
    features = {}
    for k, (name, (typical, largest)) in enumerate(FEATURES.items()):
        act = activation[:, k] + CYCLE.get(name, 0.0) * replicated
        features[name] = (typical * np.exp(largest * np.tanh(act))).astype(np.float32)
    return features


def render(
    features: Mapping[str, np.ndarray],
    well: np.ndarray,
    *,
    n_wells: int,
    image_size: int,
    n_channels: int,
    seed: int,
    chunk_size: int | None = None,
) -> np.ndarray:
    """Render cells as uint8 images (n, n_channels, image_size, image_size).

    Parameters
    ----------
    features
        Values (n,) of every one of `FEATURES`.
    well
        Well number (n,), which sets stain intensity and glare.
    n_wells, image_size, n_channels
        Sizes.
    seed
        Seed.
    chunk_size
        Cells rendered at a time; the images do not depend on it.
    """
    n = len(well)
    rng = stream(seed, "wells")
    gain = np.exp(WELL_GAIN * rng.standard_normal((n_wells, len(CHANNELS)))).astype(np.float32)
    glare = np.abs(GLARE + WELL_GLARE * rng.standard_normal((n_wells, len(CHANNELS)))).astype("f4")
    noise = [stream(seed, "pixels", channel) for channel in CHANNELS]
    cells = _Cells(seed)
    images = np.empty((n, n_channels, image_size, image_size), dtype=np.uint8)
    # A quarter of a million pixels a channel: the working arrays of a chunk stay near the cache.
    chunk = chunk_size or max(1, 2**18 // image_size**2)
    for start in range(0, n, chunk):
        rows = slice(start, start + chunk)
        part = {name: values[rows] for name, values in features.items()}
        signals = cells.render(part, image_size, n_channels)
        for c, signal in enumerate(signals):
            signal *= gain[well[rows], c][:, None, None]
            signal += glare[well[rows], c][:, None, None]
            grain = noise[c].standard_normal(signal.shape, dtype=np.float32)
            grain *= READ_NOISE + SHOT_NOISE * np.sqrt(signal)
            signal += grain
            signal *= 255.0
            images[rows, c] = np.clip(signal, 0.0, 255.0, out=signal).round().astype(np.uint8)
    return images


class _Cells:
    """Draws chunks of cells in order.

    Every kind of random number has its own stream: two kinds in one would alternate by chunk.
    """

    def __init__(self, seed: int) -> None:
        names = (
            "place",
            "turn",
            "outline",
            "chromatin",
            "mito",
            "er",
            "droplets",
            "number",
            "nucleoli",
        )
        self.rng = {name: stream(seed, "render", name) for name in names}

    def render(
        self, f: Mapping[str, np.ndarray], image_size: int, n_channels: int
    ) -> list[np.ndarray]:
        """Noise-free intensities (n, H, W) per channel for the features of a chunk."""
        n = len(f["cell_size"])
        axis = (np.arange(image_size, dtype=np.float32) + 0.5) * (2.0 / image_size) - 1.0
        place = self.rng["place"].standard_normal((n, 4)).astype(np.float32)
        turn = self.rng["turn"].random((n, 2)).astype(np.float32) * np.float32(np.pi)
        centre = POSITION_JITTER * place[:, :2]
        nucleus_centre = centre + POSITION_JITTER * place[:, 2:]

        # Low waves bend the outline, so that no cell is an ellipse.
        wobble = 0.13 * self.waves("outline", axis, np.full(n, 4.0, dtype=np.float32), 3)
        cell_r = _distance(axis, centre, f["cell_size"], f["cell_elongation"], turn[:, 0])
        cell_r *= 1.0 + wobble
        nucleus_r = _distance(
            axis, nucleus_centre, f["nucleus_size"], f["nucleus_elongation"], turn[:, 1]
        )
        cell = _step(1.0 - cell_r, 12.0)
        nucleus = _step(1.0 - nucleus_r, 10.0)

        painters = (
            lambda: self.dna(f, axis, nucleus),
            lambda: self.actin(f, cell_r, cell),
            lambda: self.droplets(f, axis, centre, turn[:, 0], cell),
            lambda: self.mitochondria(f, axis, nucleus_r, nucleus, cell),
            lambda: self.er(f, axis, nucleus_r, nucleus, cell),
            lambda: self.rna(f, axis, nucleus_centre, nucleus, cell),
        )
        return [painter() for painter in painters[:n_channels]]

    def waves(self, name: str, axis: np.ndarray, number: np.ndarray, count: int) -> np.ndarray:
        """Random texture (n, H, W) of unit variance: `count` plane waves of about `number`.

        ``cos(a + b) = cos a cos b - sin a sin b`` makes it a product of small matrices.
        """
        n = len(number)
        u = self.rng[name].random((n, count, 3)).astype(np.float32)
        direction = 2.0 * np.float32(np.pi) * u[..., 0]
        length = number[:, None] * (0.7 + 0.6 * u[..., 1])
        y = (length * np.sin(direction))[:, None, :] * axis[None, :, None]
        y += (2.0 * np.float32(np.pi) * u[..., 2])[:, None, :]
        x = (length * np.cos(direction))[..., None] * axis
        left = np.concatenate([np.cos(y), -np.sin(y)], axis=2)
        right = np.concatenate([np.cos(x), np.sin(x)], axis=1)
        return np.matmul(left, right) * np.float32(np.sqrt(2.0 / count))

    def spots(
        self, axis: np.ndarray, x: np.ndarray, y: np.ndarray, size: np.ndarray, height: np.ndarray
    ) -> np.ndarray:
        """Sum (n, H, W) of Gaussian spots at x, y (n, k) with radius `size` and `height`."""
        gy = np.exp(-0.5 * ((axis[None, :, None] - y[:, None, :]) / size[:, None, :]) ** 2)
        gx = np.exp(-0.5 * ((axis - x[..., None]) / size[..., None]) ** 2)
        gx *= height[..., None]
        return np.matmul(gy, gx)

    def dna(self, f: Mapping, axis: np.ndarray, nucleus: np.ndarray) -> np.ndarray:
        """Nucleus with chromatin texture."""
        texture = self.waves("chromatin", axis, np.full(len(nucleus), 16.0, "f4"), N_WAVES)
        texture *= _col(f["chromatin_texture"])
        texture += 1.0
        np.clip(texture, 0.0, None, out=texture)
        texture *= nucleus
        texture *= _col(f["chromatin_intensity"])
        return texture

    def actin(self, f: Mapping, cell_r: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """Cytoplasm with a bright rim."""
        rim = np.exp(-0.5 * ((cell_r - 0.92) / 0.12) ** 2)
        rim *= _col(f["actin_cortex"])
        rim += 0.5 * cell
        rim *= _col(f["actin_intensity"])
        return rim

    def droplets(
        self, f: Mapping, axis: np.ndarray, centre: np.ndarray, turn: np.ndarray, cell: np.ndarray
    ) -> np.ndarray:
        """Faint cytoplasm with round droplets; their number is Poisson."""
        n = len(cell)
        u = self.rng["droplets"].random((n, MAX_DROPLETS, 4)).astype(np.float32)
        number = self.rng["number"].poisson(f["droplet_number"])
        radius = (0.35 + 0.5 * np.sqrt(u[..., 0])) * f["cell_size"][:, None]
        angle = 2.0 * np.float32(np.pi) * u[..., 1]
        stretch = np.sqrt(f["cell_elongation"])[:, None]
        along, across = radius * np.cos(angle) * stretch, radius * np.sin(angle) / stretch
        cos, sin = np.cos(turn)[:, None], np.sin(turn)[:, None]
        x = centre[:, :1] + cos * along - sin * across
        y = centre[:, 1:] + sin * along + cos * across
        size = f["droplet_size"][:, None] * (0.7 + 0.6 * u[..., 2])
        height = f["droplet_brightness"][:, None] * (0.6 + 0.8 * u[..., 3])
        height *= np.arange(MAX_DROPLETS) < number[:, None]
        return self.spots(axis, x, y, size, height) + 0.06 * cell

    def mitochondria(
        self,
        f: Mapping,
        axis: np.ndarray,
        nucleus_r: np.ndarray,
        nucleus: np.ndarray,
        cell: np.ndarray,
    ) -> np.ndarray:
        """Network of filaments that gets thinner away from the nucleus."""
        network = _step(self.waves("mito", axis, f["mito_granularity"], N_WAVES), 3.0)
        fall = np.exp(-0.5 * _col(f["mito_perinuclear"]) * np.maximum(nucleus_r - 1.0, 0.0))
        network += 0.15
        network *= fall
        network *= cell * (1.0 - 0.85 * nucleus)
        network *= _col(f["mito_intensity"])
        return network

    def er(
        self,
        f: Mapping,
        axis: np.ndarray,
        nucleus_r: np.ndarray,
        nucleus: np.ndarray,
        cell: np.ndarray,
    ) -> np.ndarray:
        """Fine membranes around the nucleus, reaching out by ``er_extent``."""
        mesh = 0.7 + 0.3 * self.waves("er", axis, np.full(len(cell), 22.0, "f4"), N_WAVES)
        far = np.maximum(nucleus_r - 1.0, 0.0) / (3.0 * _col(f["er_extent"]))
        mesh *= np.exp(-(far**2)) * cell * (1.0 - 0.7 * nucleus)
        return np.maximum(mesh, 0.0) * _col(f["er_intensity"])

    def rna(
        self,
        f: Mapping,
        axis: np.ndarray,
        nucleus_centre: np.ndarray,
        nucleus: np.ndarray,
        cell: np.ndarray,
    ) -> np.ndarray:
        """Nucleoli in the nucleus over an even cytoplasm."""
        n = len(cell)
        u = self.rng["nucleoli"].random((n, MAX_NUCLEOLI, 3)).astype(np.float32)
        # Shares of a spot: the number of nucleoli changes smoothly.
        shown = np.clip(f["nucleoli_number"][:, None] - np.arange(MAX_NUCLEOLI), 0.0, 1.0)
        radius = 0.7 * np.sqrt(u[..., 0]) * f["nucleus_size"][:, None]
        angle = 2.0 * np.float32(np.pi) * u[..., 1]
        x = nucleus_centre[:, :1] + radius * np.cos(angle)
        y = nucleus_centre[:, 1:] + radius * np.sin(angle)
        size = (0.05 + 0.03 * u[..., 2]).astype(np.float32)
        height = (shown * f["nucleoli_brightness"][:, None]).astype(np.float32)
        return self.spots(axis, x, y, size, height) * nucleus + 0.2 * cell


def _col(values: np.ndarray) -> np.ndarray:
    return values[:, None, None]


def _step(values: np.ndarray, steepness: float) -> np.ndarray:
    """Smooth step from 0 to 1 at zero."""
    return np.float32(0.5) + np.float32(0.5) * np.tanh(np.float32(steepness / 2.0) * values)


def _distance(
    axis: np.ndarray, centre: np.ndarray, size: np.ndarray, elongation: np.ndarray, turn: np.ndarray
) -> np.ndarray:
    """Elliptical distance (n, H, W): 1 on the outline of an ellipse of area ``pi size^2``."""
    dx = axis - centre[:, :1]
    dy = axis - centre[:, 1:]
    long, short = 1.0 / (size**2 * elongation), elongation / size**2
    cos, sin = np.cos(turn), np.sin(turn)
    xx = long * cos**2 + short * sin**2
    yy = long * sin**2 + short * cos**2
    xy = 2.0 * (long - short) * cos * sin
    squared = (xx[:, None] * dx**2)[:, None, :] + (yy[:, None] * dy**2)[:, :, None]
    squared += (xy[:, None] * dy)[:, :, None] * dx[:, None, :]
    return np.sqrt(np.maximum(squared, 0.0, out=squared), out=squared)
