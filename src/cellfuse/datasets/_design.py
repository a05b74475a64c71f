"""Who is perturbed how: targets, complexes, guides, and their latent effects."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import pandas as pd

CONTROL = "non-targeting"
NO_COMPLEX = "none"
MODALITIES = ("image", "rna")

#: Share of a target's effect variance that its whole complex has in common.
COMPLEX_SHARE = 0.7
#: Median and log-standard deviation of the targets' effect strengths (per latent dimension).
STRENGTH = 0.7
STRENGTH_SPREAD = 0.4
#: Beta distribution of a guide's efficacy (mean 0.71; some guides hardly cut).
EFFICACY = (5.0, 2.0)
#: Standard deviation, per latent dimension, of what a guide does beside its target.
OFF_TARGET = 0.07
#: Share of the effect variance that a further background replaces by its own.
BACKGROUND_SHARE = 0.3
#: Standard deviation of what a further background does to every cell, controls included.
BACKGROUND_SHIFT = 0.5
#: Log-standard deviation of the guides' abundances in the pool.
ABUNDANCE_SPREAD = 0.5
#: Share of cells that respond, and the range of their responses.
PENETRANCE = 0.75
RESPONSE = (0.5, 1.5)
#: Standard deviation, per latent dimension, of a cell's own state.
CELL_STATE = 0.7


def stream(seed: int, *names: object) -> np.random.Generator:
    """Return the random stream of one purpose.

    Every purpose has its own, so that changing one argument leaves all other draws as they were.
    """
    words = [zlib.crc32(str(name).encode()) for name in names]
    return np.random.default_rng(np.random.SeedSequence([seed, *words]))


@dataclass(frozen=True)
class Design:
    """The library of guides, and how many cells each gives.

    Attributes
    ----------
    targets
        One row per target: ``complex``, ``has_effect``, ``strength``.
    guides
        One row per guide: ``gene``, ``complex``, ``efficacy`` (0 for non-targeting guides).
    target_of
        Row of each guide's target in `targets`; -1 for non-targeting guides.
    backgrounds
        Names of the backgrounds; the first is the reference.
    """

    targets: pd.DataFrame
    guides: pd.DataFrame
    target_of: np.ndarray
    backgrounds: list[str]

    def edges(self) -> pd.DataFrame:
        """Pairs of targets of one complex that both have an effect, each once, with score 1."""
        active = self.targets[self.targets["has_effect"] & (self.targets["complex"] != NO_COMPLEX)]
        names = active.index.to_numpy(dtype=str)
        labels = active["complex"].to_numpy(dtype=str)
        i, j = np.triu_indices(len(names), k=1)
        same = labels[i] == labels[j]
        return pd.DataFrame(
            {"source": names[i[same]], "target": names[j[same]], "score": np.ones(int(same.sum()))}
        )


def draw_design(
    *,
    n_targets: int,
    guides_per_target: int,
    n_control_guides: int,
    complex_size: int,
    no_effect: float,
    n_backgrounds: int,
    seed: int,
) -> Design:
    """Draw the library: complexes in order, effects and efficacies at random."""
    width = max(2, len(str(n_targets)))
    names = [f"TARGET{i + 1:0{width}d}" for i in range(n_targets)]
    number = np.arange(n_targets) // complex_size
    sizes = np.bincount(number)
    n_digits = max(2, len(str(len(sizes))))
    labels = [f"complex-{k + 1:0{n_digits}d}" if sizes[k] > 1 else NO_COMPLEX for k in number]

    has_effect = np.ones(n_targets, dtype=bool)
    n_silent = round(no_effect * n_targets)
    has_effect[stream(seed, "silent").permutation(n_targets)[:n_silent]] = False
    strength = STRENGTH * np.exp(
        STRENGTH_SPREAD * stream(seed, "strength").standard_normal(n_targets)
    )
    targets = pd.DataFrame(
        {"complex": labels, "has_effect": has_effect, "strength": strength * has_effect},
        index=pd.Index(names, name="gene"),
    )

    target_of = np.concatenate(
        [np.repeat(np.arange(n_targets), guides_per_target), np.full(n_control_guides, -1)]
    )
    n_guides = n_targets * guides_per_target
    efficacy = np.zeros(len(target_of))
    efficacy[:n_guides] = stream(seed, "efficacy").beta(*EFFICACY, n_guides)
    guides = pd.DataFrame(
        {
            "gene": [names[t] if t >= 0 else CONTROL for t in target_of],
            "complex": [labels[t] if t >= 0 else NO_COMPLEX for t in target_of],
            "efficacy": efficacy,
        },
        index=pd.Index(
            [f"{names[t]}-g{k % guides_per_target + 1}" for k, t in enumerate(target_of[:n_guides])]
            + [f"{CONTROL}-g{k + 1:02d}" for k in range(n_control_guides)],
            name="guide",
        ),
    )
    backgrounds = [f"background-{b + 1}" for b in range(n_backgrounds)]
    return Design(targets, guides, target_of, backgrounds)


def mixed(seed: int, name: str, n: int, n_latent: int, *, shared: float) -> dict[str, np.ndarray]:
    """Unit-variance normal draws (n, n_latent) per modality with variance share `shared` in common.

    Each is ``sqrt(shared) * common + sqrt(1 - shared) * own``.
    """
    common = stream(seed, name, "common").standard_normal((n, n_latent))
    return {
        modality: np.sqrt(shared) * common
        + np.sqrt(1.0 - shared) * stream(seed, name, modality).standard_normal((n, n_latent))
        for modality in MODALITIES
    }


def target_effects(
    design: Design, *, n_latent: int, shared: float, effect_size: float, seed: int
) -> dict[str, np.ndarray]:
    """Latent effects of the targets per modality, (backgrounds, targets, latent)."""
    targets = design.targets
    # A target that belongs to no complex is a complex of its own.
    alone = targets["complex"] == NO_COMPLEX
    groups = targets["complex"].where(~alone, pd.Series(targets.index, index=targets.index))
    number, labels = pd.factorize(groups)
    scale = effect_size * targets["strength"].to_numpy()[:, None]

    effects: dict[str, list[np.ndarray]] = {modality: [] for modality in MODALITIES}
    for b, background in enumerate(design.backgrounds):
        of_complex = mixed(seed, f"complex {background}", len(labels), n_latent, shared=shared)
        of_target = mixed(seed, f"target {background}", len(targets), n_latent, shared=shared)
        for modality in MODALITIES:
            own = (
                np.sqrt(COMPLEX_SHARE) * of_complex[modality][number]
                + np.sqrt(1.0 - COMPLEX_SHARE) * of_target[modality]
            ) * scale
            if b > 0:
                own = (
                    np.sqrt(1.0 - BACKGROUND_SHARE) * effects[modality][0]
                    + np.sqrt(BACKGROUND_SHARE) * own
                )
            effects[modality].append(own)
    return {modality: np.stack(parts) for modality, parts in effects.items()}


def guide_effects(
    design: Design, effects: dict[str, np.ndarray], *, shared: float, effect_size: float, seed: int
) -> dict[str, np.ndarray]:
    """Latent effects of the guides per modality, (backgrounds, guides, latent).

    Efficacy times the target's effect, plus a small off-target part; non-targeting guides do
    nothing.
    """
    targeting = design.target_of >= 0
    efficacy = design.guides["efficacy"].to_numpy()[:, None]
    n_latent = next(iter(effects.values())).shape[-1]
    off = mixed(seed, "off-target", len(targeting), n_latent, shared=shared)
    return {
        modality: np.where(
            targeting[:, None],
            efficacy * of_target[:, design.target_of] + OFF_TARGET * effect_size * off[modality],
            0.0,
        )
        for modality, of_target in effects.items()
    }


def background_shifts(
    n_backgrounds: int, n_latent: int, *, shared: float, seed: int
) -> dict[str, np.ndarray]:
    """Draw what a background does to all cells, per modality (backgrounds, latent).

    The first background is the reference and does nothing.
    """
    shifts = mixed(seed, "background", n_backgrounds, n_latent, shared=shared)
    for shift in shifts.values():
        shift *= BACKGROUND_SHIFT
        shift[0] = 0.0
    return shifts


def draw_cells(
    design: Design, modality: str, *, cells_per_guide: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Guide and background number of every cell of a modality, in random order.

    The two modalities are two samples of one pool: a guide's abundance (log-normal) is the same
    in both, the cells caught of it are Poisson. Every guide has at least one cell.
    """
    n_guides, n_backgrounds = len(design.guides), len(design.backgrounds)
    abundance = np.exp(
        ABUNDANCE_SPREAD * stream(seed, "abundance").standard_normal(n_guides)
        - ABUNDANCE_SPREAD**2 / 2
    )
    rng = stream(seed, "cells", modality)
    expected = np.broadcast_to(abundance * cells_per_guide, (n_backgrounds, n_guides))
    counts = np.maximum(rng.poisson(expected), 1)
    background, guide = np.divmod(
        np.repeat(np.arange(n_backgrounds * n_guides), counts.ravel()), n_guides
    )
    order = rng.permutation(len(guide))
    return guide[order], background[order]


def draw_latents(
    mean: np.ndarray, shift: np.ndarray, modality: str, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Latent (n, n_latent) and response (n,) of single cells.

    A cell does not respond at all or responds with 0.5 to 1.5 times its guide's effect `mean`;
    its own state and its background's `shift` come on top.
    """
    n, n_latent = mean.shape
    responds = stream(seed, "responds", modality).random(size=n) < PENETRANCE
    response = np.where(responds, stream(seed, "response", modality).uniform(*RESPONSE, n), 0.0)
    state = CELL_STATE * stream(seed, "state", modality).standard_normal((n, n_latent))
    return mean * response[:, None] + shift + state, response
