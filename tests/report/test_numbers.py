"""Numbers for people: short, whole, and comparable down a column."""

from __future__ import annotations

import pytest

from realdataexp.report.numbers import Scale, number


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0"),
        (1.0, "1"),
        (0.0012344, "0.001234"),
        (-42.678, "-42.68"),
        (12345.4, "12,345"),
        (-99_999.0, "-99,999"),
        (123_456.0, "123.5 k"),
        (54_954_820.0, "54.95 M"),
        (-1.5e9, "-1.5 G"),
        (2.5e13, "25 T"),
        (3e20, "3.000e+20"),
    ],
)
def test_a_number_alone_has_four_digits(value: float | None, text: str):
    assert number(value) == text


def test_numbers_that_stand_together_show_two_digits_of_the_smallest_error():
    scale = Scale.of([-0.00172, 0.0118], [0.0039, 0.0022])
    assert [scale.text(x) for x in (-0.00172, 0.0118, 0.0000001, -0.0000001, None)] == [
        "-0.0017",
        "0.0118",
        "0.0000",
        "0.0000",
        "-",
    ]


def test_large_numbers_that_stand_together_share_a_unit():
    scale = Scale.of([12_345_678.0, 98_000.0], [20_000.0])
    assert [scale.text(x) for x in (12_345_678.0, 98_000.0)] == ["12.346 M", "0.098 M"]


def test_numbers_without_errors_show_four_digits_of_the_largest():
    scale = Scale.of([0.05882, -0.0625, None], [None])
    assert scale.text(-0.0625) == "-0.06250"
    assert Scale.of([1969.4], []).text(1969.4) == "1,969"


def test_a_tiny_error_does_not_make_endless_decimals():
    assert Scale.of([1234.5], [1e-12]).text(1234.5) == "1,234.500"


def test_nothing_to_scale_is_shown_as_it_is():
    assert Scale.of([], []).text(0.0) == "0"
