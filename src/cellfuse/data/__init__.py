"""The document layer: who shares a context, what a batch draws, where it is read."""

from cellfuse.data.blocks import BlockReader
from cellfuse.data.contexts import Contexts, Members
from cellfuse.data.inputs import CellInput, check_values, statistics
from cellfuse.data.loader import Batch, DocumentDataModule, DocumentLoader, Source
from cellfuse.data.readers import (
    ColumnReader,
    CSRReader,
    DenseReader,
    Reader,
    SparseRows,
    gather,
    make_reader,
)
from cellfuse.data.splits import held_contexts, training_rows
from cellfuse.data.streams import DocumentPlan, Draw, Indices, Stream, enumerate_documents

__all__ = [
    "Batch",
    "BlockReader",
    "CSRReader",
    "ColumnReader",
    "CellInput",
    "Contexts",
    "DenseReader",
    "DocumentDataModule",
    "DocumentLoader",
    "DocumentPlan",
    "Draw",
    "Indices",
    "Members",
    "Reader",
    "Source",
    "SparseRows",
    "Stream",
    "check_values",
    "enumerate_documents",
    "gather",
    "held_contexts",
    "make_reader",
    "statistics",
    "training_rows",
]
