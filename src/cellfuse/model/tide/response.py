"""The first stage of TIDE: basal expression, a drug and its dose to expression after treatment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellfuse.data import (
    Batch,
    Contexts,
    DocumentDataModule,
    DocumentPlan,
    Draw,
    Reader,
    Source,
    Stream,
)
from cellfuse.data.readers import read_dense
from cellfuse.model.base.training import Training, fit
from cellfuse.model.tide.capping import capped
from cellfuse.model.tide.config import log_normalize
from cellfuse.nn.response import ResponseNetwork

__all__ = ["REPORT", "Transcriptomes", "fit_response", "report_frame", "response_report"]

#: Columns of the report; see :meth:`cellfuse.TIDE.train_response`.
REPORT = ("r2", "r2_over_mean_change", "mean_change_r2", "correlation", "n_drugs", "n_conditions")
PARTS = ("held-out drugs", "training drugs")
CHUNK = 4096


@dataclass(frozen=True)
class Transcriptomes:
    """RNA of a screen as the response model reads it.

    Parameters
    ----------
    reader
        Of the RNA.
    fields
        ``"dose"`` and ``"compound"`` of each row; the compound is a row of `bits`, -1 a control.
    contexts
        Contexts of the RNA.
    bits
        Fingerprint of every compound, ``(n_compounds, n_bits)``.
    counts
        Whether raw counts are read.
    compound_key, control
        Column of the contexts with the compound, and the controls' label.
    n_basal
        Control profiles that are averaged to a basal state.
    """

    reader: Reader
    fields: Mapping[str, NDArray]
    contexts: Contexts
    bits: Tensor
    counts: bool
    compound_key: str
    control: str
    n_basal: int

    def basal_draw(self) -> Draw:
        """Draw of the controls that agree with a document in everything but the compound."""
        return Draw("rna", self.n_basal, context="control", missing="drop", name="basal")

    def values(self, x: Tensor) -> Tensor:
        """Profiles of a draw, ``(G, S, n_genes)``, averaged over S."""
        return log_normalize(x, counts=self.counts).mean(dim=1)

    def blocks(self, rows: NDArray[np.int64]) -> Any:
        """Go through rows: their numbers and their profiles."""
        for start in range(0, len(rows), CHUNK):
            part = rows[start : start + CHUNK]
            yield part, log_normalize(read_dense(self.reader, part), counts=self.counts)

    def statistics(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each gene over `rows`."""
        total: Any = 0.0
        squares: Any = 0.0
        shift: Any = None
        for _, x in self.blocks(rows):
            x = x.double()
            shift = x.mean(dim=0) if shift is None else shift
            total = total + (x - shift).sum(dim=0)
            squares = squares + (x - shift).square().sum(dim=0)
        mean = total / len(rows)
        variance = (squares / len(rows) - mean.square()).clamp(min=0)
        return (mean + shift).float(), variance.sqrt().float()

    def means(self, codes: NDArray[np.int64], n: int) -> NDArray[np.float64]:
        """Mean profile of the rows of each code ``(n, n_genes)``; negative codes are left out."""
        total = np.zeros((n, self.reader.shape[1]))
        for part, x in self.blocks(np.flatnonzero(codes >= 0)):
            np.add.at(total, codes[part], x.double().numpy())
        counts = np.bincount(codes[codes >= 0], minlength=n)
        return total / np.maximum(counts, 1)[:, None]

    def used(
        self, drugs: Sequence[str], compounds: Sequence[str], n_paired: int | None, seed: int
    ) -> NDArray[np.bool_]:
        """RNA rows that are used: at most `n_paired` of each of `drugs`, all others."""
        names = list(compounds)
        return capped(self.fields["compound"], [names.index(d) for d in drugs], n_paired, seed)

    def fingerprints(self, compound: Tensor) -> Tensor:
        """Bits of compounds, zeros for controls."""
        found = self.bits.to(compound.device)[compound.clamp(min=0)]
        return found * (compound >= 0)[:, None]


def fit_response(
    net: ResponseNetwork,
    data: Transcriptomes,
    rows: NDArray[np.bool_],
    *,
    use_dose: bool,
    max_epochs: int,
    batch_size: int,
    lr: float,
    weight_decay: float,
    seed: int,
    **trainer: Any,
) -> dict[str, pd.DataFrame]:
    """Train the network on `rows`, every profile once per epoch.

    A profile is told from its drug, and from another profile of its drug and cell line, whose dose
    may differ. Controls come as a drug without structure.
    """
    plan = DocumentPlan(
        data.contexts.restricted({"rna": rows}),
        Stream(
            (Draw("rna", 1), Draw("rna", 1, name="shown"), data.basal_draw()),
            batch_size,
            over="cells",
        ),
        seed=seed,
        control_key=data.compound_key,
        control=data.control,
    )
    source = Source({"rna": data.reader}, {"rna": dict(data.fields)})

    def losses(batch: Batch, training: bool) -> dict[str, Tensor]:
        of = batch.obs
        return net(
            data.values(batch.x["basal"]),
            data.values(batch.x["rna"]),
            data.fingerprints(of["rna"]["compound"][:, 0]),
            of["rna"]["dose"][:, 0] if use_dose else None,
            shown=data.values(batch.x["shown"]),
            shown_dose=of["shown"]["dose"][:, 0] if use_dose else None,
        )

    net.requires_grad_(True).train()
    found = fit(
        Training(net, losses, lr=lr, weight_decay=weight_decay),
        DocumentDataModule(plan, source),
        max_epochs=max_epochs,
        **trainer,
    )
    net.requires_grad_(False).eval()
    return {f"response_{k}": v.rename(columns={k: f"response_{k}"}) for k, v in found.items()}


@torch.inference_mode()
def response_report(
    net: ResponseNetwork,
    data: Transcriptomes,
    rows: NDArray[np.bool_],
    held_out: Sequence[int],
    *,
    use_dose: bool,
) -> Tensor:
    """How much of the change the drug's structure and dose explain, ``(2, 6)``.

    Rows are held-out and training compounds, columns :data:`REPORT`. A condition is a context at a
    dose: the mean of its profiles less the mean of its controls, in units of each gene's standard
    deviation. The mean change is that of the training conditions.
    """
    of_row = np.where(rows, data.contexts.of_row("rna"), -1)
    controls, group = data.contexts.related(
        "rna", "control", control_key=data.compound_key, control=data.control
    )
    # Where no control agrees in every other key there is no change to speak of.
    known = (of_row >= 0) & (group[of_row] >= 0)
    treated = np.flatnonzero(known & (data.fields["compound"] >= 0))
    table = pd.DataFrame(
        {
            "context": of_row[treated],
            "dose": data.fields["dose"][treated],
            "compound": data.fields["compound"][treated],
        }
    )
    codes = np.full(len(of_row), -1, np.int64)
    codes[treated] = table.groupby(["context", "dose"], sort=True).ngroup()
    conditions = table.drop_duplicates(["context", "dose"]).sort_values(["context", "dose"])
    basal_codes = np.full(len(of_row), -1, np.int64)
    basal_codes[controls.rows] = controls.codes
    basal = data.means(basal_codes, len(controls.counts))[group[conditions["context"]]]
    sd = net.unit.cpu().double().numpy()
    change = (data.means(codes, len(conditions)) - basal) / sd
    predicted = _predict(net, data, basal, conditions, use_dose) / sd - basal / sd
    is_held = conditions["compound"].isin(list(held_out)).to_numpy()
    mean_change = change[~is_held].mean(axis=0)
    out = torch.full((len(PARTS), len(REPORT)), torch.nan)
    for at, chosen in enumerate((is_held, ~is_held)):
        if chosen.any():
            found = _explained(change[chosen], predicted[chosen], mean_change)
            n = [conditions["compound"][chosen].nunique(), int(chosen.sum())]
            out[at] = torch.tensor([*found, *n])
    return out


def _predict(
    net: ResponseNetwork, data: Transcriptomes, basal: NDArray, conditions: Any, use_dose: bool
) -> NDArray:
    device, parts = net.sd.device, []
    for start in range(0, len(conditions), CHUNK):
        part = conditions.iloc[start : start + CHUNK]
        state = torch.as_tensor(basal[start : start + CHUNK], dtype=torch.float32).to(device)
        compound = torch.tensor(part["compound"].to_numpy()).to(device)
        dose = torch.tensor(part["dose"].to_numpy(np.float32)).to(device) if use_dose else None
        effect = net.effect_of_drug(data.fingerprints(compound))
        parts.append(net.predict(state, effect, dose).cpu().double().numpy())
    return np.concatenate(parts)


def _explained(change: NDArray, predicted: NDArray, mean_change: NDArray) -> list[float]:
    def error(guess: NDArray | float) -> float:
        return float(np.square(change - guess).sum())

    def explained(left: float, of: float) -> float:
        return 1 - left / of if of else np.nan  # where nothing changed, nothing is explained

    nothing, model, mean = error(0.0), error(predicted), error(mean_change)
    centred = [x - x.mean() for x in (change.ravel(), predicted.ravel())]
    norm = float(np.linalg.norm(centred[0]) * np.linalg.norm(centred[1]))
    return [
        explained(model, nothing),
        explained(model, mean),
        explained(mean, nothing),
        float(centred[0] @ centred[1]) / norm if norm else np.nan,
    ]


def report_frame(report: Tensor) -> pd.DataFrame:
    """The report as a table."""
    frame = pd.DataFrame(report.cpu().numpy(), index=list(PARTS), columns=list(REPORT))
    return frame.astype({"n_drugs": "Int64", "n_conditions": "Int64"})
