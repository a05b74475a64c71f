"""Rules by which what was held out chooses, on numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from cellfuse.kernels.choosing import better_beyond_error, simplest_within_error

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


def test_few_numbers_need_a_clearer_difference_than_many():
    # A mean of 1.1 standard errors: three numbers pass it by chance more often than one in six.
    few = np.array([-1.0, 0.0, 1.0]) * 3**0.5 + 1.1
    many = np.tile([1.0, -1.0], 200) * 399**0.5 + 1.1
    for gain, better in ((few, 0), (many, 1)):
        ways = [gain, np.zeros(len(gain))]
        assert better_beyond_error(ways.__getitem__, 0, [1]) == better
        assert simplest_within_error(ways[::-1]) == 1 - better
