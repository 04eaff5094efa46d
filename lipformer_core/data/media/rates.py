"""Frame rates: measured from the times of pictures, and the one that a dubbed result has."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np

from ...timing import FPS

STANDARD_RATES = tuple(
    Fraction(*rate)
    for rate in [(24_000, 1_001), (24, 1), (25, 1), (30_000, 1_001), (30, 1), (50, 1), (60_000, 1_001), (60, 1)]
)
SLOWEST, FASTEST = Fraction(239, 10), Fraction(601, 10)  # frames/s of a result, both a hair beyond standard rates
STEADY_SHARE = 0.75  # of the steps between pictures that are equal where a rate is steady, if some are left out
NEAR = 1 / 2_500
SLOWEST_SOURCE = 0.01  # pictures a second
LONGEST_STEP = 4  # times the median: beyond, a picture is held


def measured_rate(times: np.ndarray, claims: Iterable[Fraction | None] = (), tick: float = 1e-3) -> Fraction:
    """The pictures a second that a stream shows while it moves.

    Args:
        times: `(n,)` seconds of its pictures, in any order.
        claims: what the container says: taken where it is right, or where fewer than two pictures have a time.
        tick: unit of the times, seconds; they may be a little more than one off.

    Returns:
        A claimed or a standard rate where one is near enough: within 0.04 % (24 and 23.976 are 0.1 % apart) where the
        rate is steady, within 3 % where it varies.
    """
    known = [Fraction(claim) for claim in claims if claim]
    times = np.unique(np.asarray(times, dtype=np.float64))
    if len(times) < 2:
        return _nearest(min(max(known[0], Fraction(1)), Fraction(240)), STANDARD_RATES) if known else Fraction(FPS)
    steps = np.diff(times)
    middle = float(np.median(steps))
    even = np.abs(steps - middle) <= 1.1 * tick + 0.02 * middle
    steady = even.mean() >= STEADY_SHARE
    kept = steps[even] if steady else steps[steps <= LONGEST_STEP * middle]
    rate = Fraction(max(1 / kept.mean(), SLOWEST_SOURCE)).limit_denominator(1_001)
    if not steady:
        found = _nearest(rate, STANDARD_RATES, 0.03)
        return found if found in STANDARD_RATES else Fraction(max(1, round(rate)))
    tolerance = max(NEAR, tick / kept.sum())
    claimed = _nearest(rate, known, tolerance)
    return _nearest(rate, STANDARD_RATES, tolerance) if claimed == rate else _nearest(claimed, STANDARD_RATES)


def _nearest(rate: Fraction, known: Sequence[Fraction], tolerance: float = NEAR) -> Fraction:
    """The known rate that is nearest, if it is near enough; otherwise the rate itself."""
    nearest = min(known, key=lambda other: abs(other - rate), default=rate)
    return nearest if abs(nearest - rate) <= tolerance * rate else rate


def result_rate(rate: Fraction) -> Fraction:
    """The rate of a result: the source's own from 24 to 60 frames/s; a multiple or a part of it outside.

    A slower source gives its mouth too few pictures to move: it gets the multiple nearest to 25. A faster one costs
    twice the work for no visible gain.
    """
    if rate < SLOWEST:
        return rate * max(round(FPS / rate), math.ceil(SLOWEST / rate))
    return rate / math.ceil(rate / FASTEST)
