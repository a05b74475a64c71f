"""Who shares a context: the cells of every modality, grouped by perturbation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._access import label_codes, obs_column, where
from cellfuse._errors import listing, missing_key
from cellfuse._provenance import PROVENANCE

__all__ = ["PAIRED", "Contexts", "Members"]

logger = logging.getLogger("cellfuse")

Ints = NDArray[np.int64]
#: `context_keys` value that makes every cell its own context: cells measured in all modalities.
PAIRED = "obs_names"


@dataclass(frozen=True)
class Members:
    """Rows of one modality by group: those of group `g` are ``rows[indptr[g]:indptr[g + 1]]``.

    Parameters
    ----------
    indptr
        Where each group begins in `rows`, and the end, ``(n_groups + 1,)``.
    rows
        Row numbers, group by group.

    Examples
    --------
    >>> import numpy as np
    >>> from cellfuse.data import Members
    >>> Members.from_codes(np.array([1, 0, 1, -1]), 2).rows.tolist()  # the last is in no group
    [1, 0, 2]
    """

    indptr: Ints
    rows: Ints

    @classmethod
    def from_codes(cls, codes: Ints, n_groups: int, rows: Ints | None = None) -> Members:
        """Group `rows` (default: all, in order) by their `codes`; a negative code is no group."""
        rows = np.arange(len(codes), dtype=np.int64) if rows is None else rows
        kept = codes >= 0
        codes, rows = codes[kept], rows[kept]
        order = np.argsort(codes, kind="stable")
        indptr = np.zeros(n_groups + 1, np.int64)
        np.cumsum(np.bincount(codes, minlength=n_groups), out=indptr[1:])
        return cls(indptr, rows[order].astype(np.int64))

    @property
    def counts(self) -> Ints:
        """Number of rows of each group."""
        return np.diff(self.indptr)

    @property
    def codes(self) -> Ints:
        """Group of each entry of `rows`."""
        return np.repeat(np.arange(len(self.indptr) - 1), self.counts)


@dataclass(frozen=True)
class Contexts:
    """The contexts of a screen and the cells of each modality that belong to them.

    Build it with :meth:`from_modalities`.

    Parameters
    ----------
    table
        One row per context, indexed by its label; columns are the context keys.
    members
        For each modality, the rows of its cells by context (a context may hold none).
    n_rows
        Number of cells of each modality, those without a context included.

    Examples
    --------
    >>> import anndata as ad, pandas as pd
    >>> from cellfuse.data import Contexts
    >>> obs = pd.DataFrame({"guide": ["g1", "g2", "g1"]}, index=list("abc"))
    >>> contexts = Contexts.from_modalities({"rna": ad.AnnData(obs=obs)}, "guide")
    >>> contexts.table.index.tolist(), contexts.n_rows
    (['g1', 'g2'], {'rna': 3})
    """

    table: pd.DataFrame
    members: dict[str, Members]
    n_rows: dict[str, int]

    @classmethod
    def from_modalities(
        cls, adatas: Mapping[str, AnnData], context_keys: str | Sequence[str]
    ) -> Contexts:
        """Read the contexts of several modalities.

        Parameters
        ----------
        adatas
            AnnData of each modality.
        context_keys
            One or several obs columns, present in every modality, whose joint value is the
            context; or one obsm key written by :func:`cellfuse.pp.map_contexts`, in which a cell
            may belong to several contexts; or ``"obs_names"`` for modalities measured on the same
            cells.

        Raises
        ------
        KeyError
            A modality lacks a key.
        ValueError
            Missing values, columns of different type, or no context shared by the modalities.

        Examples
        --------
        >>> import cellfuse as cf
        >>> mdata = cf.datasets.simulated_screen(n_targets=4, cells_per_guide=4, seed=0)
        >>> contexts = cf.data.Contexts.from_modalities(mdata.mod, "guide")
        >>> sorted(contexts.members)
        ['image', 'rna']
        """
        keys = [context_keys] if isinstance(context_keys, str) else list(context_keys)
        if not keys:
            raise ValueError("`context_keys` is empty; name at least one obs column.")
        if len(set(keys)) < len(keys):
            raise ValueError(f"context_keys={keys} names an obs column twice.")
        if keys == [PAIRED]:
            contexts = cls._paired(adatas)
        elif len(keys) == 1 and all(
            keys[0] in a.obsm and keys[0] not in a.obs for a in adatas.values()
        ):
            contexts = cls._topics(adatas, keys[0])
        else:
            contexts = cls._columns(adatas, keys)
        contexts._report()
        return contexts

    # -- the three ways a context can be given ----------------------------------------------------

    @classmethod
    def _columns(cls, adatas: Mapping[str, AnnData], keys: list[str]) -> Contexts:
        joint = np.zeros(sum(a.n_obs for a in adatas.values()), np.int64)
        labels = []
        for key in keys:
            codes, names = _label_codes([obs_column(a, key, modality=m) for m, a in adatas.items()])
            joint = joint * len(names) + codes
            labels.append(names)
        found, codes = _ranks(joint, int(np.prod([len(names) for names in labels])))
        table = pd.DataFrame(index=pd.RangeIndex(len(found)))
        for key, names in zip(reversed(keys), reversed(labels), strict=True):
            found, position = np.divmod(found, len(names))
            table.insert(0, key, names[position])
        table.index = pd.Index(table.agg(" | ".join, axis=1) if len(keys) > 1 else table[keys[0]])
        table.index.name = "context"
        ends = np.cumsum([a.n_obs for a in adatas.values()])[:-1]
        members = {
            name: Members.from_codes(part, len(table))
            for name, part in zip(adatas, np.split(codes, ends), strict=True)
        }
        return cls(table, members, {name: a.n_obs for name, a in adatas.items()})

    @classmethod
    def _topics(cls, adatas: Mapping[str, AnnData], key: str) -> Contexts:
        """Contexts from a cells x topics membership matrix: a cell may be in several."""
        names: list[str] = []
        members = {}
        for modality, adata in adatas.items():
            topics = adata.uns.get(PROVENANCE, {}).get("topics", {})
            if key not in topics:
                raise missing_key(
                    key,
                    list(topics),
                    what=f"the topics{where(modality)}",
                    fix="Make it with `cf.pp.map_contexts`.",
                )
            found = [str(name) for name in topics[key]]
            if names and found != names:
                raise ValueError(
                    f"topics {key!r} differ between modalities ({listing(names, 3)} against "
                    f"{listing(found, 3)}); map them with one `cf.pp.map_contexts(mdata, ...)`."
                )
            names = found
            by_topic = adata.obsm[key].tocsc()
            rows = by_topic.indices.astype(np.int64)
            members[modality] = Members(by_topic.indptr.astype(np.int64), rows)
        table = pd.DataFrame({key: names}, index=pd.Index(names, name="context"))
        return cls(table, members, {name: a.n_obs for name, a in adatas.items()})

    @classmethod
    def _paired(cls, adatas: Mapping[str, AnnData]) -> Contexts:
        names = pd.Index(
            np.unique(np.concatenate([a.obs_names.to_numpy() for a in adatas.values()]))
        )
        members = {
            modality: Members.from_codes(
                names.get_indexer(a.obs_names).astype(np.int64), len(names)
            )
            for modality, a in adatas.items()
        }
        table = pd.DataFrame({PAIRED: names}, index=names.rename("context"))
        return cls(table, members, {name: a.n_obs for name, a in adatas.items()})

    # -- what can be asked ------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.table)

    @property
    def names(self) -> pd.Index:
        """Label of each context."""
        return self.table.index

    @property
    def modalities(self) -> list[str]:
        """Names of the modalities."""
        return list(self.members)

    @property
    def counts(self) -> pd.DataFrame:
        """Cells of each context (rows) in each modality (columns)."""
        return pd.DataFrame({m: g.counts for m, g in self.members.items()}, index=self.names)

    def of_row(self, modality: str) -> Ints:
        """Context of each row of a modality, the first of several, -1 for none."""
        members = self.members[modality]
        codes = np.full(self.n_rows[modality], -1, np.int64)
        codes[members.rows[::-1]] = members.codes[::-1]
        return codes

    def shared(self) -> NDArray[np.bool_]:
        """Contexts that hold cells of every modality."""
        return np.logical_and.reduce([g.counts > 0 for g in self.members.values()])

    def restricted(self, rows: Mapping[str, NDArray[np.bool_]]) -> Contexts:
        """The same contexts with only those rows of each modality whose mask is True."""
        members = {}
        for modality, group in self.members.items():
            kept = (
                rows[modality][group.rows] if modality in rows else np.ones(len(group.rows), bool)
            )
            members[modality] = Members.from_codes(
                np.where(kept, group.codes, -1), len(self), group.rows
            )
        return replace(self, members=members)

    def permuted(
        self, seed: int, *, among: Mapping[str, NDArray[np.bool_]] | None = None
    ) -> Contexts:
        """Cells dealt to contexts at random, sizes kept, each modality for itself (paper, 4).

        `among` names rows of each modality that change places among themselves; all others stay, as
        held-out contexts do, on which a model of permuted contexts is judged.
        """
        members = {}
        for number, (modality, group) in enumerate(self.members.items()):
            rng = np.random.default_rng([seed, 7919, number])
            rows = group.rows
            dealt = np.ones(len(rows), bool) if among is None else among[modality][rows]
            rows = rows.copy()
            rows[dealt] = rng.permutation(rows[dealt])
            members[modality] = Members(group.indptr, rows)
        return replace(self, members=members)

    def related(
        self,
        modality: str,
        context: str | Callable[[pd.DataFrame], Sequence[int]],
        *,
        control_key: str | None = None,
        control: str | None = None,
    ) -> tuple[Members, Ints]:
        """Which cells a draw takes for each context.

        Parameters
        ----------
        modality
            Modality of the draw.
        context
            ``"own"``, ``"control"`` (all control contexts that agree in every other key), or a
            function from :attr:`table` to one context position per row (-1 for none).
        control_key, control
            Column of :attr:`table` and label of the controls, for ``"control"``.

        Returns
        -------
        Groups of rows, and for each context the number of its group (-1 for none).

        Raises
        ------
        KeyError
            There is no such modality, or no such control.
        ValueError
            Another `context`, or a function that returns no positions.
        """
        if modality not in self.members:
            raise missing_key(modality, self.modalities, what="the modalities")
        own = self.members[modality]
        if context == "own":
            return own, np.arange(len(self), dtype=np.int64)
        if context == "control":
            return self._controls(own, control_key, control)
        if not callable(context):
            raise ValueError(f"context={context!r}: expected 'own', 'control' or a function.")
        groups = np.asarray(context(self.table), dtype=np.int64)
        if groups.shape != (len(self),) or groups.max(initial=-1) >= len(self):
            raise ValueError(
                f"the context function must return one context position for each of {len(self)} "
                f"contexts (below {len(self)}); found shape {groups.shape}."
            )
        return own, groups

    def _controls(
        self, own: Members, control_key: str | None, control: str | None
    ) -> tuple[Members, Ints]:
        if control_key is None or control_key not in self.table:
            raise missing_key(control_key, list(self.table), what="the context keys")
        is_control = (self.table[control_key] == control).to_numpy()
        if not is_control.any():
            raise missing_key(control, list(self.table[control_key].unique()), what=control_key)
        others = [key for key in self.table if key != control_key]
        if others:
            groups = self.table.groupby(others, sort=True).ngroup().to_numpy().astype(np.int64)
        else:
            groups = np.zeros(len(self), np.int64)
        codes = np.where(is_control, groups, -1)[own.codes]
        controls = Members.from_codes(codes, int(groups.max()) + 1, own.rows)
        return controls, np.where(controls.counts[groups] > 0, groups, -1)

    def _report(self) -> None:
        if len(self.members) < 2:
            return
        counts = self.counts
        shared = self.shared()
        if not shared.any():
            found = "; ".join(
                f"{m}: {listing(counts.index[counts[m] > 0], 3)}" for m in self.modalities
            )
            raise ValueError(
                f"the modalities share no context in {list(self.table)} ({found}). Spell the "
                "labels alike in all modalities."
            )
        alone = {m: int(((counts[m] > 0) & ~shared).sum()) for m in self.modalities}
        if any(alone.values()):
            only = ", ".join(f"{n} without a counterpart in {m!r}" for m, n in alone.items() if n)
            logger.info("%d contexts shared by all modalities; %s.", int(shared.sum()), only)


def _label_codes(columns: list[pd.Series]) -> tuple[Ints, NDArray[np.object_]]:
    """Number the labels of one key over all modalities; as many strings as labels, not as cells."""
    parts = [label_codes(column) for column in columns]
    names = np.unique(np.concatenate([found for _, found in parts]))
    index = pd.Index(names)
    joint = [index.get_indexer(pd.Index(found))[codes] for codes, found in parts]
    return np.concatenate(joint).astype(np.int64), names


def _ranks(codes: Ints, n_codes: int) -> tuple[Ints, Ints]:
    """Codes that occur, in order, and the position of each cell's among them."""
    if n_codes > 4 * len(codes) + 1_000_000:  # many keys: fewer cells than possible codes
        found, position = np.unique(codes, return_inverse=True)
        return found, position.astype(np.int64)
    occurs = np.bincount(codes, minlength=n_codes) > 0
    return np.flatnonzero(occurs), (np.cumsum(occurs) - 1)[codes]
