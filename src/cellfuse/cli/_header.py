"""What a file holds, read from its header by h5py alone: answered before anything is imported."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellfuse._errors import listing, missing_key

if TYPE_CHECKING:
    import h5py

__all__ = ["Header", "Part", "read_header", "role_parts"]

ROLES = ("image", "rna")


@dataclass(frozen=True)
class Part:
    """One modality as its header describes it."""

    name: str
    file: Path
    group: str
    obs: tuple[str, ...]
    obsm: dict[str, tuple[int, ...]]
    layers: tuple[str, ...]
    has_x: bool

    @property
    def called(self) -> str:
        """Its name in a message."""
        return f"modality {self.name!r}" if self.group else "the file"

    def need_obs(self, key: str, option: str) -> None:
        """Refuse an obs column that is not there."""
        if key not in self.obs:
            raise missing_key(key, self.obs, what=f"obs of {self.called} ({option})")

    def need_obsm(self, key: str, option: str) -> None:
        """Refuse an obsm key that is not there."""
        if key not in ("X", *self.obsm):
            raise missing_key(key, list(self.obsm), what=f"obsm of {self.called} ({option})")

    def need_layer(self, key: str, option: str) -> None:
        """Refuse a layer that is not there."""
        if key not in self.layers:
            raise missing_key(key, self.layers, what=f"layers of {self.called} ({option})")

    def labels(self, key: str) -> list[str] | None:
        """Distinct labels of an obs column; None where they are numbers."""
        import h5py

        with h5py.File(self.file) as file:
            column = file[f"{self.group}/obs/{key}" if self.group else f"obs/{key}"]
            if isinstance(column, h5py.Group):
                column = column["categories"] if "categories" in column else column.get("values")
            if column is None or column.dtype.kind not in "OSU":
                return None
            return sorted({v.decode() if isinstance(v, bytes) else str(v) for v in column[:]})


@dataclass(frozen=True)
class Header:
    """What a screen's file holds."""

    path: Path
    parts: dict[str, Part] = field(default_factory=dict)


def read_header(path: str | Path, *, modality: str | None = None, option: str = "DATA") -> Header:
    """Read the header of an ``.h5mu``, or of an ``.h5ad`` that is one `modality`.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        Another kind of file, an empty or damaged one, or an ``.h5ad`` without `modality`.
    """
    file = Path(path)
    if file.suffix not in (".h5mu", ".h5ad"):
        raise ValueError(f"{str(file)!r} ({option}) is neither .h5mu nor .h5ad.")
    if not file.is_file():
        near = [p.name for kind in ("*.h5mu", "*.h5ad") for p in sorted(file.parent.glob(kind))]
        raise FileNotFoundError(
            f"there is no file {str(file)!r} ({option}); its folder holds {listing(near)} of these "
            "kinds."
        )
    if file.suffix == ".h5ad" and modality is None:
        raise ValueError(
            "an .h5ad is one modality: say which, 'image' or 'rna' (--modality); found None."
        )
    if file.suffix == ".h5mu" and modality is not None:
        raise ValueError(
            "--modality is for .h5ad; of an .h5mu name them with --modalities "
            f"(--modalities {modality}=NAME)."
        )
    if file.stat().st_size == 0:
        raise ValueError(f"{str(file)!r} ({option}) could not be read: it is empty.")
    import h5py

    try:
        with h5py.File(file) as opened:
            if modality is not None:
                return Header(file, {modality: _part(opened, modality, file, "")})
            return Header(
                file, {n: _part(opened[f"mod/{n}"], n, file, f"mod/{n}") for n in _mods(opened)}
            )
    except (KeyError, OSError) as error:
        reason = str(error).strip("\"'")
        raise ValueError(f"{str(file)!r} ({option}) could not be read: {reason}.") from error


def _mods(opened: h5py.File) -> list[str]:
    if "mod" not in opened:
        what = "an AnnData; rename it to .h5ad" if "obs" in opened else "no MuData"
        raise KeyError(f"it holds {what}")
    mods = opened["mod"]
    order = [_name(n) for n in mods.attrs.get("mod-order", [])]
    names = [n for n in order if n in mods] or list(mods)
    if not names:
        raise KeyError("the MuData holds no modality")
    return names


def _part(group: Any, name: str, file: Path, where: str) -> Part:
    import h5py

    if "obs" not in group:
        raise KeyError(f"{where or 'the file'} holds no obs")
    obs = group["obs"]
    if isinstance(obs, h5py.Dataset):  # anndata before 0.7
        columns = list(obs.dtype.names or ())
    else:
        order = [_name(n) for n in obs.attrs.get("column-order", [])]
        columns = order or [n for n in obs if n != _name(obs.attrs.get("_index", "_index"))]
    obsm = {key: _shape(value) for key, value in group["obsm"].items()} if "obsm" in group else {}
    layers = tuple(group["layers"]) if "layers" in group else ()
    return Part(name, file, where, tuple(columns), obsm, layers, "X" in group)


def _name(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _shape(value: Any) -> tuple[int, ...]:
    if hasattr(value, "shape"):
        return tuple(int(n) for n in value.shape)
    if "column-order" in value.attrs:  # a data frame
        return (_length(value[_name(value.attrs["_index"])]), len(value.attrs["column-order"]))
    return tuple(int(n) for n in value.attrs.get("shape", ()))


def _length(column: Any) -> int:
    """Rows of a column: an array, or the group of one that pandas keeps in parts."""
    if hasattr(column, "shape"):
        return int(column.shape[0])
    return int(column["codes" if "codes" in column else "values"].shape[0])


def role_parts(header: Header, roles: dict[str, str] | None) -> dict[str, Part]:
    """Modality of each role, ``"image"`` and ``"rna"``.

    Raises
    ------
    KeyError
        A role or a modality that is unknown.
    ValueError
        Modalities that have no role by their name: which of them are read must then be said.
    """
    found = list(header.parts)
    if roles is None:
        named = {role: role for role in ROLES if role in found}
        others = [name for name in found if name not in named]
        if len(named) < len(ROLES) and others:
            guess = _guess(named, others)
            raise ValueError(
                f"the file has the modalities {listing(found)}; which is read as what? Say "
                f"--modalities {guess}"
                + (f", or --modalities {_written(named)} for that one alone." if named else ".")
            )
        roles = named
    for role, name in roles.items():
        if role not in ROLES:
            raise missing_key(role, ROLES, what="the roles of --modalities")
        if name not in found:
            raise missing_key(name, found, what="the MuData's modalities (--modalities)")
    return {role: header.parts[roles[role]] for role in ROLES if role in roles}


def _guess(named: dict[str, str], others: Iterable[str]) -> str:
    free = iter(others)
    roles = {role: named.get(role) or next(free, "NAME") for role in ROLES}
    return _written(roles)


def _written(roles: dict[str, str]) -> str:
    return ",".join(f"{role}={name}" for role, name in roles.items())
