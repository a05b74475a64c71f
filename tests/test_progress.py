"""What a reader sees of a training: how far it is, and nothing of other libraries."""

from __future__ import annotations

import sys

import pytest

import cellfuse as cf
from cellfuse.model.base import progress


@pytest.fixture
def model(screen, tiny):
    mdata = screen(n_cells=16)
    cf.PETRI.setup_mudata(mdata, context_keys="guide", image_rep="crops")
    return cf.PETRI(mdata, begin="random", **tiny | {"set_size": 2})


SHORT = {"documents_per_context": 2, "batch_size": 4, "accelerator": "cpu"}


def test_a_log_gets_a_line_with_the_time_left_and_nothing_else(model, capfd, monkeypatch):
    monkeypatch.setattr(progress, "FIRST", 0.0)
    model.train(2, **SHORT)
    out, err = capfd.readouterr()
    assert out == ""
    (line,) = err.strip().splitlines()
    assert line.strip().startswith("epoch 1 of 2, about ") and line.endswith(" left")


def test_a_terminal_gets_one_line_that_is_cleared(model, capfd, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    model.train(2, **SHORT)
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 0
    assert "training   0%" in err and "left" in err and "epoch 1/2 loss" in err


def test_silence_where_it_was_asked_for(model, capfd, monkeypatch):
    monkeypatch.setattr(progress, "FIRST", 0.0)
    model.train(1, enable_progress_bar=False, **SHORT)
    before, cf.settings.verbosity = cf.settings.verbosity, "error"
    try:
        model.train(1, **SHORT)
    finally:
        cf.settings.verbosity = before
    assert capfd.readouterr() == ("", "")
