"""The first stage of TIDE: basal expression, a drug and its dose to expression after treatment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellfuse.data import Batch, DocumentDataModule, DocumentPlan, Draw, Source, Stream
from cellfuse.model.base.choosing import choose_share
from cellfuse.model.base.training import Training, fit
from cellfuse.model.tide.conditions import Conditions, conditions_of
from cellfuse.model.tide.transcriptomes import Transcriptomes
from cellfuse.nn.response import ResponseNetwork

__all__ = ["REPORT", "fit_response", "report_frame", "response_report"]

#: Columns of the report; see :meth:`cellfuse.TIDE.train_response`.
REPORT = ("r2", "r2_over_mean_change", "mean_change_r2", "correlation", "n_drugs", "n_conditions")
PARTS = ("held-out drugs", "training drugs")
#: Conditions that are foretold at a time.
CHUNK = 4096


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
) -> tuple[Tensor, float]:
    """How much of the change the drug's structure and dose explain, and what that is worth.

    Returns
    -------
    Rows are held-out and training compounds, columns :data:`REPORT`, ``(2, 6)``. The mean change is
    that of the training conditions. And the weight of what was learnt beside it, by which the
    changes of held-out compounds are missed least; in the report each of these is foretold with
    the weight that the others of them choose, so that none has a say in its own.
    """
    found = conditions_of(data, rows, net.unit)
    predicted = _predict(net, data, found, use_dose)
    is_held = found.table["compound"].isin(list(held_out)).to_numpy()
    weight = 1.0
    if net.mean_change is not None:
        begun = net.mean_change.cpu().double().numpy()
        learnt = predicted[is_held] - begun
        compound = found.table["compound"].to_numpy()[is_held]
        weight, of_others = _weights(found.change[is_held] - begun, learnt, compound)
        predicted[is_held] = begun + of_others[:, None] * learnt
    mean_change = found.change[~is_held].mean(axis=0)
    out = torch.full((len(PARTS), len(REPORT)), torch.nan)
    for at, chosen in enumerate((is_held, ~is_held)):
        if chosen.any():
            numbers = _explained(found.change[chosen], predicted[chosen], mean_change)
            n = [found.table["compound"][chosen].nunique(), int(chosen.sum())]
            out[at] = torch.tensor([*numbers, *n])
    return out, weight


def _weights(left: NDArray, learnt: NDArray, compound: NDArray) -> tuple[float, NDArray]:
    """Weight that all compounds choose, and for each row the one that the other compounds do.

    `left` is what the mean change leaves of each row's change, and `learnt` is to foretell it.
    """
    names, of_row = np.unique(compound, return_inverse=True)

    def chosen(but: int | None = None) -> float:
        is_asked = np.arange(len(names)) != but
        if not is_asked.any():
            return 0.0

        def missed(share: float) -> NDArray[np.float64]:
            error = np.square(left - share * learnt).sum(axis=1)
            return np.bincount(of_row, error, len(names))[is_asked].astype(np.float64)

        return choose_share(missed)

    return chosen(), np.array([chosen(at) for at in range(len(names))])[of_row]


def _predict(
    net: ResponseNetwork, data: Transcriptomes, found: Conditions, use_dose: bool
) -> NDArray[np.float64]:
    """Changes that are foretold with all that was learnt."""
    device, parts = net.sd.device, []
    for start in range(0, len(found.table), CHUNK):
        part = found.table.iloc[start : start + CHUNK]
        state = torch.as_tensor(found.basal[start : start + CHUNK], dtype=torch.float32).to(device)
        compound = torch.tensor(part["compound"].to_numpy()).to(device)
        dose = torch.tensor(part["dose"].to_numpy(np.float32)).to(device) if use_dose else None
        effect = net.effect_of_drug(data.fingerprints(compound))
        parts.append(net.predict(state, effect, dose).cpu().double().numpy())
    sd = net.unit.cpu().double().numpy()
    return np.concatenate(parts) / sd - found.basal / sd


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
