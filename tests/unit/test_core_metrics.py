from __future__ import annotations

import math

import pytest

from mlops_provider.core.metrics import Interval, apart, number, signed


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.71234, "0.7123"),
        (-0.5, "-0.5000"),
        (0.0, "0.0000"),
        (1e-05, "1.0e-05"),
        (12345.67, "12,345.7"),
        (99, "99.0000"),
    ],
)
def test_numbers_are_written_for_sentences(value: float, written: str) -> None:
    assert number(value) == written


def test_differences_carry_their_sign() -> None:
    assert [signed(value) for value in (0.012, -0.012, 0.0)] == ["+0.0120", "-0.0120", "+0.0000"]


def test_close_numbers_are_told_apart() -> None:
    assert apart(0.729996, 0.73) == ("0.729996", "0.730000")
    assert apart(0.72, 0.73) == ("0.7200", "0.7300")
    assert apart(0.73, 0.73) == ("0.7300", "0.7300")


def test_numbers_closer_than_anyone_reads_are_written_alike() -> None:
    one, other = apart(0.73, 0.73 + 1e-15)

    assert one == other


def test_an_interval_reads_as_value_and_range() -> None:
    assert str(Interval(0.7, 0.65, 0.75)) == "0.7000 (0.6500 to 0.7500)"


def test_a_bootstrap_interval_need_not_hold_its_value() -> None:
    assert Interval(0.7, 0.71, 0.75).value == 0.7


@pytest.mark.parametrize("numbers", [(math.nan, 0, 1), (0, -math.inf, 1), (0, 0, math.inf)])
def test_an_undefined_metric_is_no_interval(numbers: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        Interval(*numbers)


def test_an_interval_has_its_ends_in_order() -> None:
    with pytest.raises(ValueError, match=r"low end 0\.8 is above its high end 0\.6"):
        Interval(0.7, 0.8, 0.6)
