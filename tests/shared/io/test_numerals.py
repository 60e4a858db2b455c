"""Numbers in reports."""

from __future__ import annotations

import doctest

import pytest

from doselabel.io import numerals, planes, words
from doselabel.io.numerals import percent, plus_minus, significant


@pytest.mark.parametrize(
    ("value", "text"),
    [(7593.75, "7594"), (0.0123456, "0.0123"), (1.0, "1.00"), (99.96, "100"), (0.0, "0"), (56425.3, "56\u202f425"),
     (-1.94, "−1.94"), (1.37e-5, "1.37e-05"), (None, "–"), (float("nan"), "–")],
)  # fmt: skip
def test_a_number_is_shown_with_three_significant_digits(value, text):
    assert significant(value) == text


@pytest.mark.parametrize(
    ("value", "sd", "text"),
    [(2.14159, 0.2781, "2.14 ± 0.28"), (7593.75, 421.0, "7590 ± 420"), (2.0, 0.0996, "2.00 ± 0.10"),
     (0.5004, 0.0651, "0.500 ± 0.065"), (12.0, 0.0, "12.0"), (12.0, float("nan"), "12.0")],
)  # fmt: skip
def test_an_uncertainty_has_two_significant_digits_and_the_value_ends_at_the_same_place(value, sd, text):
    assert plus_minus(value, sd) == text


def test_a_percentage_never_shows_a_negative_zero():
    assert percent(-0.01, signed=True) == "0.0 %"
    assert percent(2.345, signed=True) == "+2.3 %"
    assert percent(-25.0, 0) == "−25 %"


@pytest.mark.parametrize("module", [numerals, planes, words], ids=lambda m: m.__name__)
def test_the_examples_in_the_documentation_are_true(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
