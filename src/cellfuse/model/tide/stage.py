"""The response model of TIDE as a stage of its own: trained first, and useful alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from cellfuse.data import Reader
from cellfuse.data.readers import read_dense
from cellfuse.model.base.checks import check_whole
from cellfuse.model.base.history import Frames
from cellfuse.model.base.training import refuse_unknown, seeded
from cellfuse.model.tide.compounds import Chemistry
from cellfuse.model.tide.conditions import conditions_of
from cellfuse.model.tide.response import fit_response, response_report
from cellfuse.model.tide.transcriptomes import Transcriptomes, log_normalize
from cellfuse.nn.tide import TideNetwork

__all__ = ["ResponseStage", "predict_expression"]


@dataclass
class ResponseStage:
    """Training of the response model inside TIDE's network.

    Parameters
    ----------
    net
        Holds the response model and its report.
    data
        RNA of the screen.
    rows
        RNA that is used, ``(n,)`` bool.
    use_dose, seed
        Of the model.
    """

    net: TideNetwork
    data: Transcriptomes
    rows: NDArray[np.bool_]
    use_dose: bool
    seed: int

    @property
    def is_done(self) -> bool:
        """Whether it was trained."""
        return not bool(self.net.response_report.isnan().all())

    def take_scales(self) -> None:
        """Take the genes' scales alone, where nothing is trained."""
        scales = self.data.statistics(np.flatnonzero(self.rows))
        self.net.cell("rna").set_statistics(*scales)

    def train(
        self,
        max_epochs: int = 100,
        *,
        holdout: float = 0.2,
        batch_size: int = 64,
        lr: float = 1e-3,
        weight_decay: float = 0.05,
        **trainer_kwargs: Any,
    ) -> Frames:
        """Train the response model: basal expression, drug and dose to treated expression.

        :meth:`train` does this first by itself. It is useful alone: see
        :meth:`predict_expression`.

        Parameters
        ----------
        max_epochs
            Times that every profile is told from its drug.
        holdout
            Share of the compounds with RNA that the training does not see; the report is on them,
            and so is the choice of `response_learnt_weight`.
        batch_size, lr, weight_decay
            AdamW, 5% linear warm-up, then cosine.
        **trainer_kwargs
            Passed to Lightning's trainer.

        Returns
        -------
        The report, also :attr:`response_report_`: for held-out and training drugs, over all
        contexts and doses, ``r2`` of the predicted change against "no change",
        ``r2_over_mean_change`` of it against the mean change of the training drugs,
        ``mean_change_r2`` of that mean change against "no change", and the ``correlation`` of
        predicted and measured change. R^2 below 0 is worse than what it is compared with. With
        ``begin="linear"`` each held-out drug is foretold with the weight of what was learnt that
        the other held-out drugs choose.
        """
        refuse_unknown("TIDE.train_response", trainer_kwargs, ResponseStage.train)
        check_whole("max_epochs", max_epochs)
        if not 0 <= holdout < 1:
            raise ValueError(f"holdout must be in [0, 1), found {holdout}.")
        compound, known = self.data.fields["compound"], self.rows
        names = np.unique(compound[known & (compound >= 0)])
        held = np.random.default_rng([self.seed, 32_452_843]).permutation(names)
        held = held[: int(len(names) * holdout)]
        trained = known & ~np.isin(compound, held)
        response = self.net.response
        response.set_statistics(*self.data.statistics(np.flatnonzero(trained)))
        if response.mean_change is not None:
            found = conditions_of(self.data, trained, response.unit)
            response.mean_change.copy_(torch.as_tensor(found.change.mean(axis=0)))
        with seeded(self.seed, 86_028_121):
            history = fit_response(
                response,
                self.data,
                trained,
                use_dose=self.use_dose,
                max_epochs=max_epochs,
                batch_size=batch_size,
                lr=lr,
                weight_decay=weight_decay,
                seed=self.seed,
                **trainer_kwargs,
            )
        report, weight = response_report(
            response, self.data, known, held.tolist(), use_dose=self.use_dose
        )
        self.net.response_report.copy_(report)
        if response.learnt_weight is not None:
            response.learnt_weight.fill_(weight)
            self.net.note_seen(np.setdiff1d(names, held).tolist())
        return history


@torch.inference_mode()
def predict_expression(
    basal: Reader,
    smiles: str | Sequence[str],
    dose: ArrayLike | None = None,
    *,
    batch_size: int = 256,
    net: TideNetwork,
    chemistry: Chemistry,
    compounds: Sequence[str],
    counts: bool,
    use_dose: bool,
) -> NDArray[np.float32]:
    """Expression after treatment, by the response model.

    With ``begin="linear"`` a structure that its training did not see is foretold with
    `response_learnt_weight` of what was learnt beside the mean change.

    Parameters
    ----------
    basal
        RNA of untreated samples, with the genes of training; a MuData's RNA modality.
    smiles
        One structure, or one for each row of `basal`.
    dose
        In uM, one or one for each row; None for a model without doses.
    batch_size
        Samples at a time.

    Returns
    -------
    ``(n, n_genes)``, `n` the longest of the three (each of length 1 or `n`). For a model of
    counts, log(1 + counts per 10,000).

    Raises
    ------
    RuntimeError
        The response model was not trained.
    ValueError
        Lengths that do not fit; SMILES that are not read; negative or missing doses.
    """
    texts = [smiles] if isinstance(smiles, str) else [str(text) for text in smiles]
    distinct, which = np.unique(texts, return_inverse=True)
    bits = chemistry.bits(distinct.tolist())
    doses = _checked_doses(dose, use_dose)
    lengths = {"basal": basal.shape[0], "smiles": len(texts), "dose": len(doses)}
    n = max(lengths.values())
    if any(length not in (1, n) for length in lengths.values()):
        raise ValueError(f"expected lengths of 1 or {n}, found {lengths}.")
    response, device = net.response.eval(), net.mean.device
    weight = _weight_of(bits, net, chemistry, compounds)
    out = np.empty((n, basal.shape[1]), np.float32)
    for start in range(0, n, batch_size):
        rows = np.arange(start, min(start + batch_size, n))
        state, drug, at = (np.zeros_like(rows) if k == 1 else rows for k in lengths.values())
        x = log_normalize(read_dense(basal, state), counts=counts).to(device)
        effect = response.effect_of_drug(bits[which[drug]].to(device))
        given = torch.from_numpy(doses[at]).to(device) if use_dose else None
        of = None if weight is None else weight[which[drug]].to(device)
        out[rows] = response.predict(x, effect, given, weight=of).cpu().numpy()
    return out


def _weight_of(
    bits: Tensor, net: TideNetwork, chemistry: Chemistry, compounds: Sequence[str]
) -> Tensor | None:
    """Weight of what was learnt for each fingerprint: 1 for those that the training saw."""
    if net.response_seen is None or net.response.learnt_weight is None:
        return None
    seen = [text for text, is_seen in zip(compounds, net.response_seen, strict=True) if is_seen]
    known = {row.tobytes() for row in chemistry.bits(seen).numpy()}
    of_others = float(net.response.learnt_weight)
    return torch.tensor([1.0 if row.tobytes() in known else of_others for row in bits.numpy()])


def _checked_doses(dose: ArrayLike | None, use_dose: bool) -> NDArray[np.float32]:
    if not use_dose:
        if dose is not None:
            raise ValueError("this TIDE knows no doses (use_dose=False): leave `dose` out.")
        return np.zeros(1, np.float32)
    if dose is None:
        raise ValueError("this TIDE knows doses: give `dose`, in uM.")
    try:
        doses = np.atleast_1d(np.asarray(dose, np.float32))
    except (TypeError, ValueError) as error:
        raise ValueError(f"doses are numbers in uM from 0; {error}.") from error
    if doses.ndim > 1:
        raise ValueError(f"expected one dose or one for each row, found shape {doses.shape}.")
    if not np.isfinite(doses).all() or (doses < 0).any():
        raise ValueError("doses are numbers in uM from 0; found missing or negative ones.")
    return doses
