"""Which columns of a table of profiles are features, by their names."""

from __future__ import annotations

import re

__all__ = ["identifies", "is_metadata", "without_prefix"]

#: Numbers of CellProfiler that say what an object or an image is, and nothing of its appearance:
#: which it is, where it lies on the disk, how it was opened, how long that took.
NUMBERS = (
    "ImageNumber",
    "ObjectNumber",
    "TableNumber",
    "ProcessingStatus",
    "ImageSet",
)
STEMS = (
    "Number_",
    "Parent_",
    "Children_",
    "FileName_",
    "PathName_",
    "URL_",
    "MD5Digest_",
    "ExecutionTime_",
    "ModuleError_",
    "Group_",
    "ImageSet_",
    "Series_",
    "Frame_",
    "Channel_",
    "Height_",
    "Width_",
    "Scaling_",
    "Metadata_",
    "Neighbors_FirstClosestObjectNumber_",
    "Neighbors_SecondClosestObjectNumber_",
)
#: Numbers of other programs, in lower case and without what is no letter.
PLAIN = frozenset(
    "plate plateid platename barcode platebarcode well wellid wellname row column col site field "
    "fieldid fov batch batchid replicate timepoint plane objectno objectid objectnumber cellid "
    "labelid imagenumber dose concentration index level unnamed rownames".split()
)


def is_metadata(name: str, prefix: str) -> bool:
    """Tell metadata by the prefix, alone or after that of a compartment or of the image."""
    return name.startswith(prefix) or _after_compartment(name).startswith(prefix)


def identifies(name: str) -> bool:
    """Tell numbers of images and objects, with or without a compartment (``Cells_Parent_...``)."""
    texts = (name, _after_compartment(name))
    if any(text in NUMBERS or text.startswith(STEMS) for text in texts):
        return True
    plain = re.sub(r"[^a-z]", "", name.lower())
    return plain in PLAIN or name.startswith("Unnamed: ") or name.startswith("Object No in ")


def without_prefix(name: str, prefix: str) -> str:
    """``Well`` of ``Metadata_Well`` and of ``Image_Metadata_Well``."""
    for text in (name, _after_compartment(name)):
        if prefix and text.startswith(prefix) and len(text) > len(prefix):
            return text.removeprefix(prefix)
    return name


def _after_compartment(name: str) -> str:
    return name.split("_", 1)[-1]
