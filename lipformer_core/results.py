"""The numbers of a notebook or an evaluation as one flat JSON object.

A number that does not exist is null and says why under `<key>.why`; so a missing metric can never be mistaken
for a good one, and a table can print the reason in the cell.
"""

import math
import os
from collections.abc import Mapping
from pathlib import Path

from .errors import LipFormerError
from .files import write_json

DIGITS = 6  # decimals kept of a float: below what any of our measurements resolves


class ResultsError(LipFormerError):
    """A result that is no flat JSON value, or a null without its reason; the message names the key."""


def flat(values: Mapping[str, object]) -> dict[str, object]:
    """Values as they are written: floats rounded to 6 digits, numpy scalars as numbers, NaN and infinity as null.

    Raises ResultsError for a value that is neither text, number, truth value nor None, and for a None without
    a text under `<key>.why`.
    """
    out: dict[str, object] = {}
    for key, value in values.items():
        if not isinstance(key, str):
            raise ResultsError(f"results: key {key!r} is not a text")
        if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # numpy and torch scalars
            value = value.item()
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if isinstance(value, float) and not math.isfinite(value):
            out.setdefault(f"{key}.why", values.get(f"{key}.why") or f"the measurement gave {value}")
            value = None
        if isinstance(value, float):
            value = round(value, DIGITS)
        if value is not None and not isinstance(value, (str, int, float, bool)):
            raise ResultsError(f"results: {key} is a {type(value).__name__}; write text, numbers, truth values or None")
        out[key] = value
    for key, value in out.items():
        if value is None and not out.get(f"{key}.why"):
            raise ResultsError(f"results: {key} is None; say the reason under '{key}.why'")
    return out


def write_results(path: str | Path, values: Mapping[str, object]) -> dict[str, object]:
    """Write `values` as flat JSON to `path`, atomically, making its folder; return what was written.

    With an empty path nothing is written: a notebook opened by hand has no run to report to.
    """
    out = flat(values)
    if str(path):
        write_json(Path(path), out)
    return out


def hold(name: str, value: float | None, low: float = -math.inf, high: float = math.inf, digits: int = 2) -> None:
    """Print a measurement rounded, and whether it lies within its bounds: what a notebook states and a test compares.

    The figure may differ a little from machine to machine, the verdict may not. value : None, or not a number: outside
    """
    inside = value is not None and low <= value <= high
    bounds = f"{low:g} to {high:g}" if low > -math.inf and high < math.inf else ""
    bounds = bounds or (f"{low:g} or more" if low > -math.inf else f"{high:g} or less")
    figure = "none" if value is None else f"{value:.{digits}f}"
    print(f"{name}: {figure}, {'within' if inside else 'OUTSIDE'} {bounds}")
