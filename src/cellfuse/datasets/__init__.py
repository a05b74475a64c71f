"""Screens and annotations: simulated ones, whose truth is known, and real ones by name."""

from cellfuse.datasets._drugs import simulated_drugs
from cellfuse.datasets._files import simulated_files
from cellfuse.datasets._screen import simulated_screen
from cellfuse.datasets.annotations import drug_targets
from cellfuse.datasets.gene_sets import corum, pathways, signor
from cellfuse.datasets.networks import humap, reactome, stringdb
from cellfuse.datasets.screens import (
    lincs_pilot1,
    papalexi_eccite,
    perturb_multi,
    scgenescope,
)

__all__ = [
    "corum",
    "drug_targets",
    "humap",
    "lincs_pilot1",
    "papalexi_eccite",
    "pathways",
    "perturb_multi",
    "reactome",
    "scgenescope",
    "signor",
    "simulated_drugs",
    "simulated_files",
    "simulated_screen",
    "stringdb",
]
