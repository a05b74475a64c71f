"""Rules by which what was held out chooses, on numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from cellfuse.kernels.choosing import better_beyond_error, mean_of_each, simplest_within_error
from cellfuse.model.base.choosing import SHARES, choose_share

BEST = np.array([0.1, 0.2, 0.3, 0.4])
#: .0025 worse on average, with an error of .0103.
LEVEL = BEST + np.array([0.02, -0.02, 0.02, -0.01])
#: .015 worse, with an error of .0029.
WORSE = BEST + np.array([0.02, 0.01, 0.02, 0.01])


@pytest.mark.parametrize(
    ("missed", "kept"),
    [
        ([BEST, LEVEL, WORSE], 1),
        ([WORSE, BEST, LEVEL], 2),
        ([LEVEL, WORSE, BEST], 2),
        ([BEST, WORSE, WORSE], 0),
        ([WORSE, BEST, WORSE], 1),
        ([BEST[:1], LEVEL[:1]], 0),
    ],
)
def test_the_simplest_within_the_error_of_the_best(missed, kept):
    assert simplest_within_error(missed) == kept


@pytest.mark.parametrize(
    ("missed", "kept"),
    [
        ([BEST, WORSE], 0),
        ([LEVEL, BEST], 0),  # better, and within the error
        ([WORSE, BEST], 1),
        ([WORSE, LEVEL, BEST], 2),
        ([WORSE, BEST, LEVEL], 1),
        ([WORSE[:1], BEST[:1]], 0),
    ],
)
def test_the_first_stands_unless_another_is_better_beyond_the_error(missed, kept):
    assert better_beyond_error(lambda way: missed[way], 0, range(1, len(missed))) == kept


def test_what_is_held_out_together_is_one_number_of_a_share():
    # Forty contexts of one donor gain, by far; those of two others lose a little.
    donor = np.repeat(["a", "b", "c"], 40)
    gain = np.where(donor == "a", 0.3, -0.02)
    ways = {share: 0.5 - share * gain for share in (0.0, *SHARES)}
    assert choose_share(ways.__getitem__) == 1.0
    assert choose_share(ways.__getitem__, donor) == 0.0
    assert choose_share(ways.__getitem__, np.repeat("a", 120)) == 1.0  # nothing else to count by
    every = {share: 0.5 - share * np.where(donor == "a", 0.3, 0.25) for share in ways}
    assert choose_share(every.__getitem__, donor) == 1.0
    np.testing.assert_allclose(mean_of_each(ways[1.0], donor), [0.2, 0.52, 0.52])


def test_few_numbers_need_a_clearer_difference_than_many():
    # A mean of 1.1 standard errors: three numbers pass it by chance more often than one in six.
    few = np.array([-1.0, 0.0, 1.0]) * 3**0.5 + 1.1
    many = np.tile([1.0, -1.0], 200) * 399**0.5 + 1.1
    for gain, better in ((few, 0), (many, 1)):
        ways = [gain, np.zeros(len(gain))]
        assert better_beyond_error(ways.__getitem__, 0, [1]) == better
        assert simplest_within_error(ways[::-1]) == 1 - better
