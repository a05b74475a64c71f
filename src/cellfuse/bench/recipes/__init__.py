"""The papers' tables as configurations of :func:`cellfuse.benchmark`.

Each function gives the arguments of one call, so that somebody who has the data makes the table
with one line and changes what he likes::

    cf.benchmark(mdata, **cf.bench.recipes.petri_table1(edges=stringdb), folder="table1")

What a paper leaves open is settled in each docstring. `model` and `train` hold arguments for every
model (its size, its training) on top of the paper's: ``model={"preset": "small"}``.
"""

from cellfuse.bench.recipes.petri import petri_s1, petri_s2, petri_s3, petri_s4, petri_table1
from cellfuse.bench.recipes.phenoseq import phenoseq_table1, phenoseq_table2, phenoseq_table3
from cellfuse.bench.recipes.semi_clipped import semi_clipped_recall
from cellfuse.bench.recipes.tide import tide_task1, tide_task2

__all__ = [
    "petri_s1",
    "petri_s2",
    "petri_s3",
    "petri_s4",
    "petri_table1",
    "phenoseq_table1",
    "phenoseq_table2",
    "phenoseq_table3",
    "semi_clipped_recall",
    "tide_task1",
    "tide_task2",
]
