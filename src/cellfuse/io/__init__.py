"""Files into AnnData and MuData: fields of view, crops, profiles, GCT; and joining modalities."""

from cellfuse.io.crops import read_crops
from cellfuse.io.field_series import Fields, read_fields
from cellfuse.io.fields import Field, read_field
from cellfuse.io.gct import read_gct
from cellfuse.io.guides import guides_from_matrix
from cellfuse.io.joining import JoinReport, join
from cellfuse.io.labels import read_labels
from cellfuse.io.plate_map import add_metadata
from cellfuse.io.profiles import read_profiles
from cellfuse.io.stacking import concat
from cellfuse.io.store import open_store, write_store

__all__ = [
    "Field",
    "Fields",
    "JoinReport",
    "add_metadata",
    "concat",
    "guides_from_matrix",
    "join",
    "open_store",
    "read_crops",
    "read_field",
    "read_fields",
    "read_gct",
    "read_labels",
    "read_profiles",
    "write_store",
]
