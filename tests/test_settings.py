"""`cf.settings.verbosity` and the console."""

from __future__ import annotations

import logging
import warnings

import pytest

import cellfuse as cf
from cellfuse import _console
from cellfuse._console import Steps, duration, is_ours, own_notes, quiet


@pytest.fixture(autouse=True)
def as_before():
    before = cf.settings.verbosity
    yield
    cf.settings.verbosity = before


def test_a_line_is_said_where_it_was_asked_for(capsys):
    logger = logging.getLogger("cellfuse")
    logger.info("not asked for")
    cf.settings.verbosity = "info"
    cf.settings.verbosity = 2  # twice is once
    logger.info("%.0f%% of targets", 52)
    cf.settings.verbosity = "error"
    logger.warning("not any more")
    assert capsys.readouterr().err == "52% of targets\n"


@pytest.mark.parametrize("value", ["loud", 4, -1, None])
def test_an_unknown_level_is_refused(value):
    with pytest.raises(ValueError, match="expected one of 'error'"):
        cf.settings.verbosity = value


@pytest.mark.filterwarnings("error")
def test_other_libraries_are_quiet_inside_and_as_before_outside():
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level, filters = logger.level, list(warnings.filters)
    with quiet():
        assert not logger.isEnabledFor(logging.INFO)
        warnings.warn_explicit("old", DeprecationWarning, "x.py", 1, module="lightning.pytorch.x")
        with pytest.raises(UserWarning, match="ours"):
            warnings.warn("ours", UserWarning, stacklevel=1)
    assert logger.level == level and warnings.filters == filters


@pytest.mark.filterwarnings("error")
def test_at_debug_nothing_is_kept_from_the_reader():
    cf.settings.verbosity = "debug"
    with quiet(), pytest.raises(DeprecationWarning):
        warnings.warn_explicit("old", DeprecationWarning, "x.py", 1, module="lightning.pytorch.x")


def test_notes_are_ours_and_said_once():
    said: list[str] = []
    with own_notes(said.append) as notes:
        for _ in range(2):
            warnings.warn("look at this", UserWarning, stacklevel=1)
        warnings.warn_explicit("old", DeprecationWarning, logging.__file__, 1)
    assert said == ["  note: look at this"] and notes == ["look at this"]


def test_ours_is_the_package_and_the_users_script():
    import numpy

    assert is_ours(_console.__file__) and is_ours("my_script.py")
    assert not is_ours(numpy.__file__) and not is_ours(logging.__file__)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.3, "0.3 s"),
        (59.7, "1 min 0 s"),
        (12, "12 s"),
        (200, "3 min 20 s"),
        (1800, "30 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_times_are_written_as_one_says_them(seconds, text):
    assert duration(seconds) == text


def test_a_step_is_one_line():
    said: list[str] = []
    steps = Steps(said.append)
    with steps("training", "8 epochs"):
        pass
    with steps("writing"):
        pass
    assert said[0] == "training: 8 epochs" and said[2].startswith("writing: done in 0.0 s")
    assert list(steps.seconds) == ["training", "writing"]
