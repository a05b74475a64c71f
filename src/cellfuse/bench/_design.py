"""What a screen is: who shares a context, who is a control, what is held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

__all__ = ["Design"]


@dataclass(frozen=True, kw_only=True)
class Design:
    """The columns and keys that every method and metric of a benchmark shares.

    The fields are arguments of :func:`cellfuse.benchmark` and are documented there.
    """

    context_keys: str | Sequence[str]
    control: str | None
    control_key: str | None = None
    target_key: str | None = None
    modalities: Mapping[str, str] | None = None
    image_rep: str | None = None
    rna_rep: str | None = None
    rna_layer: str | None = None
    rna_likelihood: Literal["nb", "mse"] = "nb"
    crop: int | None = None
    batch_key: str | None | Mapping[str, str | None] = None
    background_key: str | None = None
    hold_out: float | str | Mapping[str, str] | None = None
    hold_out_by: str | None = None
    pair_key: str | None = None
    n_genes: int | None = None
    drop_missing: bool = False

    @property
    def contexts(self) -> list[str]:
        """The context keys as a list."""
        return [self.context_keys] if isinstance(self.context_keys, str) else [*self.context_keys]

    @property
    def colour_key(self) -> str | None:
        """No column of its own colours a benchmark."""
        return None

    def as_json(self) -> dict[str, Any]:
        """All fields, as they stand in a configuration."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        found["context_keys"] = self.contexts
        return {
            name: dict(value) if isinstance(value, Mapping) else value
            for name, value in found.items()
        }
