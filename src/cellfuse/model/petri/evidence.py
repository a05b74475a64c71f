"""Whether PETRI uses the other modality: what it gains, and what attends to it (PETRI, 4.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellfuse._access import Data
from cellfuse._errors import missing_key
from cellfuse.data.readers import Reader, read_dense
from cellfuse.model.base.checks import check_between, check_seed, check_whole
from cellfuse.model.petri.arms import (
    by_channel_table,
    checked_arms,
    drawn_cells,
    given_mask,
    names_of,
    paired_tests,
    partners_of,
)
from cellfuse.model.petri.documents import InDocuments
from cellfuse.nn.keyed import uniform
from cellfuse.nn.tokens import unpatchify

__all__ = ["CrossModalEvidence", "CrossModalGain"]

#: Cells whose pixels an intensity threshold is taken from.
N_PROBED = 256


@dataclass(frozen=True)
class CrossModalGain:
    """Losses of hidden tokens with and without the other modality, cell by cell.

    Parameters
    ----------
    cells
        One row per cell, indexed by its name: ``context``, ``n_hidden`` (tokens) and
        ``loss_<arm>`` for each arm.
    channels
        One row per cell and channel (pixels), or empty: ``cell``, ``channel``, ``loss_<arm>``.
    tests
        One row per channel (``"all"`` for all of them) and arm other than the first, and one for
        ``"own"`` against ``"random"``: ``arm``, ``against``, ``gain`` (mean loss of `against` less
        that of `arm`), ``relative`` (as a share of the former),
        ``share_lower`` (cells whose loss is lower), ``pvalue`` over cells and
        ``pvalue_contexts`` over contexts' means, NaN for fewer than 6 (two-sided sign flips),
        ``n_cells``, ``n_contexts``.
    target, hidden, restored
        Of the cells in `shown`, on the scale of the data: images ``(n, C, H, W)`` or genes
        ``(n, n_genes)``; hidden pixels or genes, bool; and for each arm what was rebuilt.
    shown
        Names of those cells: they gained most from the second arm.
    arms
        The arms; the first is what the others are compared with.
    names
        Channels or genes.
    modality
        Role of the cells that were rebuilt.

    Examples
    --------
    >>> import cellfuse as cf
    >>> mdata = cf.datasets.simulated_screen(20, n_targets=4, cells_per_guide=8, seed=0)
    >>> cf.PETRI.setup_mudata(mdata, context_keys="guide", image_rep="crops")
    >>> model = cf.PETRI(mdata, set_size=1, width=16, n_heads=2, begin="random", seed=0)
    >>> model.train(max_epochs=1, documents_per_context=1, enable_progress_bar=False)
    >>> found = model.cross_modal_gain(modality="rna")
    >>> found.tests[["arm", "against"]].agg(" against ".join, axis=1).tolist()
    ['own against none', 'random against none', 'own against random']
    """

    cells: pd.DataFrame
    channels: pd.DataFrame
    tests: pd.DataFrame
    target: NDArray[np.float32]
    hidden: NDArray[np.bool_]
    restored: dict[str, NDArray[np.float32]]
    shown: list[str]
    arms: list[str]
    names: list[str]
    modality: str


@dataclass
class _Cell:
    """One cell on its way: what is left of it, encoded, and what was hidden."""

    row: int
    context: int
    target: Tensor
    hidden: Tensor
    latents: Tensor


class CrossModalEvidence(InDocuments):
    """The methods of a model of masked reconstruction that look at the other modality's part."""

    @torch.inference_mode()
    def cross_modal_gain(
        self,
        data: Data | None = None,
        *,
        modality: str = "image",
        mask: float | NDArray[np.bool_] = 0.75,
        channel: str | None = None,
        above: float | None = None,
        others: Sequence[str] = ("none", "own", "random"),
        others_masked: bool = False,
        contexts: Sequence[str] | None = None,
        max_cells: int = 512,
        n_shown: int = 8,
        seed: int | None = None,
    ) -> CrossModalGain:
        """Rebuild hidden tokens with and without the other modality in the document (4.2, A.11).

        Each document holds one masked cell, and beside it, by arm, nothing or `set_size` cells of
        the other modality. Cells, masks and the cell's own latents are the same in all arms.

        Parameters
        ----------
        data
            The MuData of training (None) or another one.
        modality
            Role of the cells that are rebuilt.
        mask
            Share of the tokens hidden at random, .75 (paper, A.11); or which tokens are hidden,
            ``(n_cells, n_tokens)`` bool. Without effect where `channel` is given.
        channel
            Hide the patches in which this channel is bright (paper, Fig. 4a: the lipid droplets).
        above
            Intensity, on the scale of the data, that a pixel of such a patch exceeds; None: Otsu's
            threshold of the channel.
        others
            The arms, at least two. ``"none"``: the masked cell alone; ``"own"``: cells of its own
            context; ``"random"``: of another one, drawn for each cell; or a context's label, such
            as a perturbation known to empty the droplets. The first is what the others are
            compared with.
        others_masked
            Mask these cells as in training; False shows them whole (paper).
        contexts
            Contexts whose cells are rebuilt (paper: control perturbations of the droplets); None:
            all.
        max_cells
            Cells that are rebuilt, drawn at random where there are more.
        n_shown
            Cells whose images are returned: those that gain most from the second arm.
        seed
            Of cells, masks and draws; the model's by default.

        Returns
        -------
        Losses by cell and by channel, their tests, and the images of some cells; drawn by
        :func:`cellfuse.pl.cross_modal_gain`.

        Raises
        ------
        KeyError
            No such modality, channel or context.
        ValueError
            One modality alone, a model without a set transformer, a mask that hides nothing or
            everything, fewer than two arms.
        RuntimeError
            The model is not trained.

        Notes
        -----
        A document that holds one cell alone is none that the model was trained on: part of what
        ``"own"`` gains against ``"none"`` any company would give. What its own context's cells
        tell is the difference between ``"own"`` and ``"random"``, which is tested too; and a model
        trained with ``permute_contexts=True`` should show none of it.
        Cells of a context meet the same expression: `pvalue_contexts` takes that into account,
        `pvalue` does not. The paper does not name its test.
        """
        self._check_trained()
        seed = self.seed if seed is None else seed
        check_seed(seed)
        for name, value in (("max_cells", max_cells), ("n_shown", n_shown)):
            check_whole(name, value)
        role, other = self._two_roles(modality)
        self.module.eval()
        known = self._contexts(data, [role, other])
        arms = checked_arms(others, known, other)
        readers = {name: self._reader(data, name) for name in (role, other)}
        rows, of_row = drawn_cells(known, role, other, contexts, max_cells, seed)
        draw = np.random.default_rng([seed, 7])
        cells = self._hidden_cells(readers[role], role, rows, of_row, mask, channel, above, seed)
        own = [cell.context for cell in cells]
        partners = {arm: partners_of(arm, own, known, other, self.set_size, draw) for arm in arms}
        predicted = {
            arm: self._rebuilt(cells, readers[other], role, other, which, others_masked, seed)
            for arm, which in partners.items()
        }
        names = self._modality(data, role).obs_names[[cell.row for cell in cells]].astype(str)
        labels = known.table.index.astype(str).to_numpy()[[cell.context for cell in cells]]
        return self._gain(cells, predicted, arms, role, names, labels, n_shown)

    def _hidden_cells(
        self,
        reader: Reader,
        role: str,
        rows: NDArray[np.int64],
        of_row: NDArray[np.int64],
        mask: float | NDArray[np.bool_],
        channel: str | None,
        above: float | None,
        seed: int,
    ) -> list[_Cell]:
        """Encode what is left of each cell, without cells of which nothing or all is hidden."""
        cell_net = self.module.cell(role)
        key = torch.as_tensor(rows, device=self.device)
        x = read_dense(reader, rows, device=self.device)
        prepared = cell_net.prepare(x[:, None], key, seed=seed, augment=False)
        if channel is not None:
            hidden = self._bright(role, prepared, channel, above)
        elif isinstance(mask, np.ndarray):
            hidden = given_mask(mask, reader.shape[0], cell_net.n_tokens, rows).to(self.device)
        else:
            check_between("mask", mask, 0, 1)
            noise = uniform(key, (cell_net.n_tokens,), seed=seed, purpose=f"gain {role}")
            n_hidden = round(cell_net.n_tokens * mask)
            hidden = noise.argsort(dim=1).argsort(dim=1) < n_hidden
        number = hidden.sum(dim=1)
        usable = ((number > 0) & (number < cell_net.n_tokens)).nonzero()[:, 0].tolist()
        if not usable:
            raise ValueError(
                f"the mask hides nothing, or everything, in each of {len(rows)} cells: there is "
                "nothing to rebuild. Change `mask`, or `channel` and `above`."
            )
        cells = []
        for i in usable:  # cells keep different numbers of tokens
            keep = (~hidden[i]).nonzero()[:, 0][None]
            latents = cell_net.encode(prepared[i : i + 1], keep)[0]
            cells.append(_Cell(int(rows[i]), int(of_row[i]), prepared[i], hidden[i], latents))
        return cells

    def _bright(self, role: str, prepared: Tensor, channel: str, above: float | None) -> Tensor:
        """Patches that hold a pixel above the threshold, ``(cells, tokens)``."""
        found = self.inputs[role]
        if found.kind != "pixels":
            raise ValueError(f"`channel` hides patches of images; {role!r} has none.")
        names = names_of(found)
        if channel not in names:
            raise missing_key(channel, names, what="the channels")
        cell_net = self.module.cell(role)
        pixels = cell_net.rebuilt(prepared, prepared)[:, names.index(channel)]
        if above is None:
            from skimage.filters import threshold_otsu

            above = float(threshold_otsu(pixels[:N_PROBED].float().cpu().numpy()))
        p = self.module.sizes.patch_size
        bright = torch.nn.functional.max_pool2d(pixels[:, None].float(), p)[:, 0]
        return bright.flatten(1) > above

    # -- documents --------------------------------------------------------------------------------

    def _rebuilt(
        self,
        cells: list[_Cell],
        reader: Reader,
        role: str,
        other: str,
        partners: NDArray[np.int64] | None,
        masked: bool,
        seed: int,
    ) -> Tensor:
        """Predictions of every token, each cell in a document with its partners."""
        out = []
        step = 32
        for start in range(0, len(cells), step):
            part = cells[start : start + step]
            latents = {role: torch.stack([cell.latents for cell in part])[:, None]}
            present = {role: torch.ones(len(part), dtype=torch.bool, device=self.device)}
            if partners is not None:
                rows = partners[start : start + step]
                latents[other] = self._partners_encoded(reader, other, rows, masked, seed, start)
                present[other] = present[role]
            # As in training, where the modalities stand in the model's order.
            ordered = {name: latents[name] for name in self.inputs if name in latents}
            fused = self.module.fuse(ordered, present)[-1][role]
            out.append(self.module.cell(role).decode(fused.flatten(0, 1)))
        return torch.cat(out)

    def _partners_encoded(
        self, reader: Reader, other: str, rows: NDArray, masked: bool, seed: int, start: int
    ) -> Tensor:
        net = self.module.cell(other)
        distinct, place = np.unique(rows, return_inverse=True)
        x = read_dense(reader, distinct, device=self.device)
        if not masked:
            encoded = self.module.latents(other, x)
            return encoded[torch.as_tensor(place.reshape(rows.shape), device=self.device)]
        key = torch.arange(start, start + len(rows), device=self.device) + (seed << 32)
        whole = x[torch.as_tensor(place.reshape(rows.shape), device=self.device)]
        prepared = net.prepare(whole, key, seed=seed, augment=False)
        keep, _ = self.module.mask(other, key, rows.shape[1])
        encoded = net.encode(prepared, keep)
        return encoded.view(*rows.shape, *encoded.shape[1:])

    # -- what was gained --------------------------------------------------------------------------

    def _gain(
        self,
        cells: list[_Cell],
        predicted: Mapping[str, Tensor],
        arms: list[str],
        role: str,
        names: pd.Index,
        labels: NDArray,
        n_shown: int,
    ) -> CrossModalGain:
        net, found = self.module.cell(role), self.inputs[role]
        target = torch.stack([cell.target for cell in cells])
        hidden = torch.stack([cell.hidden for cell in cells])
        table = pd.DataFrame({"context": labels, "n_hidden": hidden.sum(1).cpu().numpy()})
        table.index = pd.Index(names, name="cell")
        by_channel: dict[str, NDArray] = {}
        for arm in arms:
            loss = net.loss(target, predicted[arm], hidden)
            table[f"loss_{arm}"] = loss.float().cpu().numpy()
            if found.kind == "pixels":
                by_channel[arm] = self._channel_loss(target, predicted[arm], hidden, role)
        channel_names = names_of(found)
        channels = (
            by_channel_table(by_channel, names, channel_names) if by_channel else pd.DataFrame()
        )
        tests = [paired_tests(table, arms, "all")]
        for name in channel_names if by_channel else []:
            part = channels[channels["channel"] == name].set_index("cell")
            tests.append(paired_tests(part.assign(context=labels), arms, name))
        gained = (table[f"loss_{arms[0]}"] - table[f"loss_{arms[1]}"]).to_numpy()
        best = np.argsort(-gained, kind="stable")[:n_shown]
        at = torch.as_tensor(best, device=self.device)
        shape = net.rebuilt(target[at], target[at])
        return CrossModalGain(
            table,
            channels,
            pd.concat(tests, ignore_index=True),
            (target[at] if found.kind == "counts" else shape).float().cpu().numpy(),
            self._as_pixels(hidden[at], role).cpu().numpy(),
            {
                arm: net.rebuilt(target[at], predicted[arm][at]).float().cpu().numpy()
                for arm in arms
            },
            [str(names[i]) for i in best],
            arms,
            channel_names,
            role,
        )

    def _as_pixels(self, hidden: Tensor, role: str) -> Tensor:
        """Hidden tokens as hidden pixels ``(n, H, W)``; of other cells as they are."""
        if self.inputs[role].kind != "pixels":
            return hidden
        p = self.module.sizes.patch_size
        side: tuple[int, int] = self.module.cell(role).side  # type: ignore[attr-defined,assignment]
        tokens = hidden[:, :, None].expand(-1, -1, p * p).float()
        return unpatchify(tokens, p, (1, side[0], side[1]))[:, 0].bool()

    def _channel_loss(self, target: Tensor, prediction: Tensor, hidden: Tensor, role: str) -> Any:
        """Mean squared error of the hidden pixels of each channel, ``(cells, channels)``."""
        p = self.module.sizes.patch_size
        n_channels = self.inputs[role].shape[0]
        error = (prediction - target).square().unflatten(2, (n_channels, p * p)).mean(dim=3)
        weight = hidden[:, :, None].float()
        return ((error * weight).sum(1) / weight.sum(1)).float().cpu().numpy()
