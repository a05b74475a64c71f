"""Embeddings of a source: a model trained, a plain one computed, an obsm key read."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from cellfuse._access import layers_of, representation, stored_x
from cellfuse._errors import listing, missing_key
from cellfuse._mudata import make_mudata
from cellfuse.bench import _plain
from cellfuse.bench._design import Design
from cellfuse.bench._methods import EMBEDS, Source, model_class
from cellfuse.bench._screen import Screen
from cellfuse.data import CellInput

__all__ = ["Embedded", "embed", "input_of"]

#: One step at no learning rate: statistics are taken, weights stay as they were drawn.
UNTRAINED = {"max_epochs": 1, "lr": 1e-12, "limit_train_batches": 1}


@dataclass
class Embedded:
    """Embeddings by role, ``(cells, d)``, synthetic profiles where a model draws any, and notes."""

    arrays: dict[str, NDArray[np.float32]]
    synthetic: AnnData | None = None
    training: dict[str, list[float]] = field(default_factory=dict)
    model: Any = None


def embed(source: Source, screen: Screen, *, seed: int, sample: bool = False) -> Embedded:
    """Embed the cells of a screen; `sample` asks a model that draws profiles for them too."""
    roles = {r: n for r, n in screen.roles.items() if not source.roles or r in source.roles}
    if not roles:
        raise ValueError(
            f"{source.name} reads {listing(source.roles)}; this screen has {listing(screen.roles)}."
        )
    if source.kind == "model":
        return _model(source, screen, roles, seed, sample)
    return Embedded(
        {
            role: np.asarray(array, dtype=np.float32)
            for role, array in _plainly(source, screen, roles, seed).items()
        }
    )


def _plainly(
    source: Source, screen: Screen, roles: dict[str, str], seed: int
) -> dict[str, NDArray]:
    if source.kind == "function":
        assert source.function is not None
        return _by_role(
            source.function(_bare(screen, roles), seed=seed, **source.options), source.name, roles
        )
    found = {}
    for number, (role, name) in enumerate(roles.items()):
        adata = screen.mdata.mod[name]
        if source.kind == "obsm":
            if source.name in adata.obsm:
                values = representation(adata, source.name, modality=name)
                found[role] = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
        elif source.kind == "random":
            found[role] = _plain.random_numbers(
                adata.n_obs, seed=seed, number=number, **source.options
            )
        elif source.kind == "position":
            options = dict(source.options)
            keys = _position_keys(options.pop("keys", None), screen, role)
            if keys:
                found[role] = _plain.position(adata, keys, seed=seed, number=number, **options)
        elif source.kind == "scVI":
            if role == "rna":
                from cellfuse.bench._scvi import scvi_embedding

                found[role] = scvi_embedding(
                    adata, screen.train[name], layer=screen.design.rna_layer, seed=seed,
                    **source.options,
                )  # fmt: skip
        else:
            function = (
                _plain.principal_components if source.kind == "PCA" else _plain.plain_features
            )
            found[role] = function(
                adata,
                input_of(adata, role, name, screen.design),
                screen.train[name],
                crop=screen.design.crop,
                seed=seed,
                **source.options,
            )
    if not found:
        raise ValueError(f"{source.name} has nothing to read in {listing(roles.values())}.")
    return found


def _by_role(given: Any, name: str, roles: dict[str, str]) -> dict[str, NDArray]:
    """What a user's function gave, by role or by the modality's name, checked."""
    if not isinstance(given, Mapping):
        raise TypeError(f"{name} gave a {type(given).__name__}, not a dict by modality.")
    found = {}
    for role, modality in roles.items():
        for key in (role, modality):
            if key in given:
                found[role] = np.asarray(given[key])
    if not found:
        raise missing_key(next(iter(given), ""), list(roles), what=f"the modalities {name} gave")
    return found


def _position_keys(given: Any, screen: Screen, role: str) -> list[str]:
    """Columns of plate and well: those that were named, or that cells are corrected by."""
    keys = screen.design.batch_key if given is None else given
    keys = keys.get(role) if isinstance(keys, Mapping) else keys
    if keys is None:
        return []
    return [keys] if isinstance(keys, str) else list(keys)


def input_of(adata: AnnData, role: str, name: str, design: Design) -> CellInput:
    """What models read of a modality, by the benchmark's design."""
    image = role == "image"
    return CellInput.resolve(
        adata,
        role=role,
        modality=name,
        rep=design.image_rep if image else design.rna_rep,
        layer=None if image else design.rna_layer,
        counts=not image and design.rna_likelihood == "nb" and design.rna_rep is None,
    )


# -- models ---------------------------------------------------------------------------------------


def _bare(screen: Screen, roles: dict[str, str]) -> MuData:
    """The modalities with `.uns` of their own, so that nothing is written into the user's."""
    parts = {}
    for name in roles.values():
        adata = screen.mdata.mod[name]
        parts[name] = AnnData(
            stored_x(adata),
            obs=adata.obs.copy(),
            var=adata.var.copy(),
            obsm=dict(adata.obsm),
            layers=layers_of(adata),
        )
    return make_mudata(parts)


def _training_part(mdata: MuData, screen: Screen) -> MuData:
    if all(screen.train[name].all() for name in mdata.mod):
        return mdata
    return make_mudata({name: a[screen.train[name]].copy() for name, a in mdata.mod.items()})


def _dealt(mdata: MuData, seed: int) -> MuData:
    """Deal the labels of the last modality's cells at random: contexts that say nothing."""
    *_, name = mdata.mod
    obs = mdata.mod[name].obs
    order = np.random.default_rng([seed, 15_487_469]).permutation(len(obs))
    names = obs.index
    mdata.mod[name].obs = obs.iloc[order].set_axis(names)
    return mdata


def _accepted(function: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    known = inspect.signature(function).parameters
    return {name: value for name, value in arguments.items() if name in known}


def _setup_arguments(screen: Screen, roles: dict[str, str]) -> dict[str, Any]:
    """What a benchmark knows of the screen, in the words of ``setup_mudata``."""
    design = screen.design
    contexts = design.contexts
    found: dict[str, Any] = {
        "context_keys": contexts[0] if len(contexts) == 1 else contexts,
        "image_rep": design.image_rep,
        "rna_rep": design.rna_rep,
        "rna_layer": design.rna_layer,
        "rna_likelihood": design.rna_likelihood,
        "modalities": roles,
        "batch_key": design.batch_key,
        "modality": roles.get("image"),
    }
    if design.control is not None:
        found |= {"control": design.control, "control_key": design.control_key}
    return found


def _model(
    source: Source, screen: Screen, roles: dict[str, str], seed: int, sample: bool
) -> Embedded:
    cls = model_class(source)
    whole = _bare(screen, roles)
    own_twin = "permute_contexts" in inspect.signature(cls.__init__).parameters
    shown = whole if not source.permuted or own_twin else _dealt(_bare(screen, roles), seed)
    shown = _training_part(shown, screen)
    setup = _accepted(cls.setup_mudata, _setup_arguments(screen, roles)) | source.setup
    cls.setup_mudata(shown, **setup)
    own = {"crop": screen.design.crop, "target_key": screen.design.target_key}
    options = {"seed": seed, **_accepted(cls.__init__, own)}
    if source.permuted and own_twin:
        options["permute_contexts"] = True
    model = cls(shown, **(options | source.options))
    model.train(**_training_arguments(cls, source))
    embedded = Embedded({}, model=model)
    takes_modality = "modality" in inspect.signature(cls.get_latent_representation).parameters
    for role, name in roles.items():
        if role not in EMBEDS.get(source.name, roles):
            continue
        more = {"modality": role} if takes_modality else {}
        data = whole if takes_modality else whole.mod[name]
        embedded.arrays[role] = np.asarray(
            model.get_latent_representation(data, **more, **source.embed), dtype=np.float32
        )
    if sample and hasattr(model, "sample"):
        embedded.synthetic = model.sample(whole, **({"seed": seed} | source.sample))
    embedded.training = {
        name: [float(v) for v in frame.iloc[:, 0]] for name, frame in (model.history or {}).items()
    }
    return embedded


def _training_arguments(cls: Any, source: Source) -> dict[str, Any]:
    known = inspect.signature(cls.train).parameters
    takes_more = any(p.kind is p.VAR_KEYWORD for p in known.values())
    quiet = {"enable_progress_bar": False} if takes_more else {}
    if not source.untrained:
        return quiet | source.train
    if not (takes_more and "lr" in known):
        raise ValueError(f"{source.name} has no weights that are drawn: it has no untrained twin.")
    return quiet | source.train | UNTRAINED
