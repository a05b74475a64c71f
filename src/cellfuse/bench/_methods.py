"""What a method of a benchmark is: a name, an obsm key, a class or a dict, read into one form.

A *method* is one or two *sources* of embeddings (one for all modalities, or one for each) and the
way in which the modalities' profiles become one. A source is trained once, however many methods
rest on it: ``"PCA"``, ``"PCA@max"`` and ``"PCA@cca_mean"`` share one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import FunctionType
from typing import TYPE_CHECKING, Any

import cellfuse
from cellfuse._errors import listing, missing_key
from cellfuse.bench._screen import ROLES

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "FUSIONS",
    "TWINS",
    "Method",
    "Source",
    "model_class",
    "read_methods",
    "without_controls",
]

#: How the profiles of two modalities become one: their mean, which needs a shared space, or one of
#: the late fusions of PETRI, A.7.
FUSIONS = ("average", "concat", "cca_concat", "cca_mean", "min", "mean", "median", "max")
#: Controls of a model: contexts dealt at random, and weights as they were drawn.
TWINS = ("permuted", "untrained")
#: Names of what knows nothing of the cells.
FLOORS = ("random", "position", "random numbers")
#: Sources that are no model of the library.
PLAIN = ("PCA", "features", "random", "position", "scVI")
#: What a plain source may be told.
PLAIN_OPTIONS: dict[str, tuple[str, ...]] = {
    "PCA": ("n_comps",),
    "features": ("n_comps",),
    "random": ("width",),
    "position": ("keys", "width"),
    "scVI": ("n_latent", "max_epochs", "batch_key"),
}
#: PETRI's variants by the names of the paper's Table 1.
VARIANTS: dict[str, dict[str, Any]] = {
    "PETRI Image": {"model": "PETRI", "modalities": ["image"]},
    "PETRI Omics": {"model": "PETRI", "modalities": ["rna"]},
    "ViT MAE": {"model": "PETRI", "modalities": ["image"], "n_set_layers": 0},
    "TrP MAE": {"model": "PETRI", "modalities": ["rna"], "n_set_layers": 0},
}
#: Modalities that a model gives embeddings of in one space, other than both.
EMBEDS: dict[str, tuple[str, ...]] = {
    "DINO": ("image",), "MAE": ("image",), "PhenoSeq": ("image",), "TIDE": ("image",),
}  # fmt: skip
#: Entries of a method's dict that are no argument of the model.
FIELDS = (
    "model", "setup", "train", "embed", "sample", "modalities", "fusion", "use_rep", "correction",
    *TWINS,
)  # fmt: skip
#: Models whose embedding is of no use as a method.
NO_METHODS = ("Concepts",)


def without_controls(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores without floors and twins, whose best is no finding; all, where there are none else."""
    names = scores["method"].astype(str)
    controls = names.isin(FLOORS) | names.str.lower().str.contains("|".join(TWINS))
    return scores if controls.all() else scores[~controls]


@dataclass(frozen=True)
class Source:
    """Where embeddings come from.

    Parameters
    ----------
    kind
        ``"model"``, ``"obsm"``, ``"function"``, or one of the plain sources.
    name
        Name of the model or plain source, or the obsm key.
    options
        Arguments of the model's ``__init__``, or of the plain source.
    setup, train, embed, sample
        Arguments of ``setup_mudata``, ``train``, ``get_latent_representation`` and ``sample``.
    roles
        Modalities that are read; empty for all there are.
    permuted, untrained
        Twins.
    function
        The class of a model that is not the library's, or a function of the MuData and a seed.
    """

    kind: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    setup: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    embed: dict[str, Any] = field(default_factory=dict)
    sample: dict[str, Any] = field(default_factory=dict)
    roles: tuple[str, ...] = ()
    permuted: bool = False
    untrained: bool = False
    function: Callable[..., Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """All that makes one source another."""
        found = {name: value for name, value in vars(self).items() if name != "function"}
        return {**found, "function": None if self.function is None else fingerprint(self.function)}

    @property
    def changes(self) -> bool:
        """Whether another seed gives another embedding."""
        return self.kind in ("model", "function", "random", "position", "scVI")


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Parameters
    ----------
    name
        As it is shown.
    sources
        By role, or one under ``""`` for all modalities.
    fusion
        One of `FUSIONS`.
    correction
        In the place of the benchmark's: what lies in the joint space of
        :class:`cellfuse.SharedAxes` is neither scaled nor whitened, as its lengths are its weights.
    """

    name: str
    sources: dict[str, Source]
    fusion: str
    correction: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The method as it is kept beside its scores."""
        own = {"fusion": self.fusion, "correction": self.correction}
        return {**own, **{k: s.as_json() for k, s in self.sources.items()}}


def fingerprint(function: Callable[..., Any]) -> str:
    """Name of a function, and what its code does as far as its bytes tell."""
    plain = getattr(function, "func", function)  # the function inside a partial
    text = f"{getattr(plain, '__module__', '')}.{getattr(plain, '__qualname__', repr(plain))}"
    if isinstance(plain, FunctionType):
        constants = [c for c in plain.__code__.co_consts if isinstance(c, (str, int, float))]
        text += f" {plain.__code__.co_code.hex()} {plain.__code__.co_names} {constants}"
    if plain is not function:
        text += f" {function.args} {function.keywords}"  # type: ignore[attr-defined]
    return text


# -- reading what a user gave ---------------------------------------------------------------------


def read_methods(
    methods: Iterable[Any] | Mapping[str, Any], *, obsm: Iterable[str]
) -> list[Method]:
    """Read the `methods` of a benchmark; `obsm` are the keys that some modality has.

    Raises
    ------
    KeyError
        A name that is no model, plain source, variant or obsm key, or an option that is none.
    """
    if isinstance(methods, (str, bytes)):
        raise TypeError(f"methods={methods!r}: expected a list of names, or a dict by name.")
    entries = methods.items() if isinstance(methods, Mapping) else _named(methods)
    found = [_method(str(name), entry, sorted(set(obsm))) for name, entry in entries]
    if not found:
        raise ValueError("no method was named.")
    names = [method.name for method in found]
    double = sorted({name for name in names if names.count(name) > 1})
    if double:
        raise ValueError(f"{listing(double)} stand twice among the methods: give each its name.")
    return found


def _named(methods: Iterable[Any]) -> list[tuple[str, Any]]:
    named = []
    for entry in methods:
        if isinstance(entry, Mapping):
            name = entry.get("name", entry.get("model", entry.get("use_rep")))
            named.append((getattr(name, "__name__", name), entry))
        else:
            named.append((getattr(entry, "__name__", entry), entry))
    return [(str(name), entry) for name, entry in named]


def _method(name: str, entry: Any, obsm: list[str]) -> Method:
    """Read one entry; an empty dict (a table of TOML without lines) means the name itself."""
    if isinstance(entry, Mapping):
        entry = {key: value for key, value in entry.items() if key != "name"}
        parts = {role: entry[role] for role in ROLES if role in entry}
        if parts:
            return _of_parts(name, entry, parts, obsm)
        if not set(entry) & {"model", "use_rep"}:
            entry = {**_words(name, obsm), **entry}
        elif isinstance(entry.get("model"), str):
            entry = {**entry, **_words(str(entry["model"]), obsm, own=entry)}
    elif isinstance(entry, str):
        entry = _words(entry, obsm)
    else:
        entry = {"model": entry}
    source = _source(name, entry, obsm)
    return Method(
        name,
        {"": source},
        _fusion(name, entry.get("fusion"), source),
        entry.get("correction", own_correction(source)),
    )


def _of_parts(
    name: str, entry: Mapping[str, Any], parts: dict[str, Any], obsm: list[str]
) -> Method:
    """A method whose modalities are embedded apart."""
    allowed = [*ROLES, "fusion", "correction"]
    more = sorted(set(entry) - set(allowed))
    if more:
        raise missing_key(more[0], allowed, what=f"the entries of method {name!r}")
    sources = {}
    for role, part in parts.items():
        read = _method(f"{name} ({role})", part, obsm)
        if "" not in read.sources:
            raise ValueError(f"method {name!r}: its part {role!r} is made of parts itself.")
        sources[role] = read.sources[""]
    fusion = entry.get("fusion", "concat")
    _check_fusion(name, fusion)
    return Method(name, sources, fusion, entry.get("correction"))


def _words(text: str, obsm: list[str], own: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """``"PETRI@permuted"`` as the dict that it stands for."""
    base, *options = text.split("@")
    entry: dict[str, Any] = {}
    for option in options:
        if option in TWINS:
            entry[option] = True
        elif option in FUSIONS:
            entry["fusion"] = option
        else:
            raise missing_key(option, [*TWINS, *FUSIONS], what=f"what may follow '@' in {text!r}")
    models = [name for name in cellfuse._MODELS if name not in NO_METHODS]
    if base in VARIANTS:
        return {**VARIANTS[base], **(own or {}), "model": VARIANTS[base]["model"], **entry}
    if base in models or base in PLAIN:
        return {"model": base, **entry}
    if base in obsm and own is None:
        return {"use_rep": base, **entry}
    raise missing_key(
        base,
        [*models, *PLAIN, *VARIANTS, *obsm],
        what="the models, plain methods and obsm keys of this screen",
    )


def _source(name: str, entry: Mapping[str, Any], obsm: list[str]) -> Source:
    twins = {twin: bool(entry.get(twin, False)) for twin in TWINS}
    roles = _roles(name, entry.get("modalities"))
    options = {key: value for key, value in entry.items() if key not in FIELDS}
    if "use_rep" in entry:
        key = entry["use_rep"]
        if options or any(twins.values()):
            raise ValueError(
                f"method {name!r} is the embedding obsm[{key!r}], which has no options or twins; "
                f"found {listing([*options, *(t for t in TWINS if twins[t])])}."
            )
        if key not in obsm:
            raise missing_key(key, obsm, what="obsm of the screen's modalities")
        return Source("obsm", str(key), roles=roles)
    model = entry["model"]
    if isinstance(model, str) and model in PLAIN:
        for key in (*options, *(k for k in ("setup", "train", "embed", *TWINS) if entry.get(k))):
            if key not in PLAIN_OPTIONS[model]:
                raise missing_key(
                    key, PLAIN_OPTIONS[model], what=f"the options of method {name!r} ({model})"
                )
        return Source(model, model, options, roles=roles)
    if isinstance(model, type) or isinstance(model, str):
        return _of_model(name, entry, options, twins, roles)
    if callable(model):
        if any(twins.values()):
            raise ValueError(f"method {name!r} is a function, which has no twins.")
        return Source("function", name, options, roles=roles, function=model)
    raise TypeError(
        f"method {name!r}: expected a name, an obsm key, a model class, a function or a dict, "
        f"found {type(model).__name__}."
    )


def _of_model(
    name: str,
    entry: Mapping[str, Any],
    options: dict[str, Any],
    twins: dict[str, bool],
    roles: tuple[str, ...],
) -> Source:
    given = entry["model"]
    own = isinstance(given, type) and given.__name__ not in cellfuse._MODELS
    source = Source(
        "model",
        given if isinstance(given, str) else given.__name__,
        options,
        setup=dict(entry.get("setup", {})),
        train=dict(entry.get("train", {})),
        embed=dict(entry.get("embed", {})),
        sample=dict(entry.get("sample", {})),
        roles=roles,
        function=given if own else None,
        **twins,
    )
    cls = model_class(source)
    for method, arguments in (
        ("setup_mudata", source.setup),
        ("train", source.train),
        ("get_latent_representation", source.embed),
        ("__init__", source.options),
    ):
        _check_arguments(name, cls, method, arguments)
    return source


def own_correction(source: Source) -> str | None:
    """``"none"`` for what lies in a joint space: SharedAxes, and PETRI that begins linear."""
    if source.name == "SharedAxes":
        return "none"
    if source.name == "PETRI" and source.function is None:
        known = inspect.signature(cellfuse.PETRI.__init__).parameters
        small = source.options.get("preset", "small") == "small"
        begin = source.options.get("begin") or ("linear" if small else "random")
        joint = source.embed.get("at") in (None, "joint", "shared")
        if "begin" in known and begin == "linear" and joint:
            return "none"
    return None


def model_class(source: Source) -> Any:
    """The class of a model."""
    if source.function is not None:
        return source.function
    return getattr(cellfuse, source.name)


def _check_arguments(name: str, cls: Any, method: str, arguments: Mapping[str, Any]) -> None:
    """Refuse an argument that the method has not, where it says which it has."""
    known = inspect.signature(getattr(cls, method)).parameters
    if any(p.kind is p.VAR_KEYWORD for p in known.values()):
        return
    for argument in arguments:
        if argument not in known:
            raise missing_key(
                argument,
                [k for k in known if k not in ("self", "cls", "mdata", "adata", "data")],
                what=f"the arguments of {cls.__name__}.{method} (method {name!r})",
            )


def _roles(name: str, given: Any) -> tuple[str, ...]:
    if given is None:
        return ()
    roles = (given,) if isinstance(given, str) else tuple(given)
    for role in roles:
        if role not in ROLES:
            raise missing_key(role, ROLES, what=f"the modalities of method {name!r}")
    return roles


def _fusion(name: str, given: str | None, source: Source) -> str:
    """How two modalities become one; only a model is known to have a shared space."""
    if given is None:
        return "average" if source.kind in ("model", "random", "position") else "concat"
    _check_fusion(name, given)
    return given


def _check_fusion(name: str, fusion: str) -> None:
    if fusion not in FUSIONS:
        raise missing_key(fusion, FUSIONS, what=f"the fusions (method {name!r})")
