"""Two evaluations paired by clip: how far they differ, whether that can be told from chance, and which is better."""

import csv
import json
from collections.abc import Mapping
from math import inf
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lipformer_core.errors import DataError
from lipformer_core.results import write_results

from .report import BY_YAW, COLUMNS, RATIOS, ROWS

# what is best in a column: the most, the least, or a figure; None: neither is better
BEST: dict[str, float | None] = {
    **dict.fromkeys(("psnr", "ssim", "bottom_psnr", "mouth_psnr", "mouth_ssim"), inf),
    **dict.fromkeys(("opening_corr_self", "opening_corr_exchanged", "sync_expert_confidence"), inf),
    **dict.fromkeys(("lse_c", *BY_YAW), inf),
    **dict.fromkeys(("lpips", "lmd", "identity_distance", "lse_d", "sync_expert_distance"), -inf),
    **dict.fromkeys(("leak", "silence_motion"), 0.0),
    **dict.fromkeys(("motion", "sharpness", "seam"), 1.0),
    "jitter": None,
}
DRAWS = 2000
Table = dict[tuple[str, str], dict[str, float]]  # (clip, whose sound) to `row.column` to a number


def compare(
    a: Path | str, b: Path | str, rows: tuple[str, str] = ("lipformer", "lipformer"), out: Path | str = ""
) -> dict[str, object]:
    """Every column that two evaluations have of a row each: means, difference B - A with its interval, a sentence.

    a, b : folders that `evaluate` wrote, of one split of the same data; the same folder twice compares two rows of it
    rows : of A and of B
    out : JSON file for the results; empty: none is written
    returns flat results: `column.a`, `.b`, `.difference`, `.difference.low`, `.difference.high`, `.sentence`, `.clips`
    raises DataError for a folder without an evaluation, one of other data, a row or clips that only one of them has
    """
    if unknown := [row for row in rows if row not in ROWS]:
        raise DataError(f"no row {unknown[0]}; the rows are {', '.join(ROWS)}")
    (facts_a, table_a), (facts_b, table_b) = (_read(Path(folder)) for folder in (a, b))
    if facts_a["data_hash"] != facts_b["data_hash"] or facts_a["split"] != facts_b["split"]:
        raise DataError(f"{a} and {b} were judged on different data or splits, so no clip has a partner")
    paired = sorted(table_a.keys() & table_b.keys())
    if not paired:
        raise DataError(f"{a} and {b} have no clip in common")
    results: dict[str, object] = {
        **{"a": f"{a} {rows[0]}", "b": f"{b} {rows[1]}", "clips": len(paired)},
        "clips_of_one_alone": len(table_a.keys() ^ table_b.keys()),
    }
    for column, best in BEST.items():
        parts = [_numbers(t, paired, f"{row}.{column}") for t, row in ((table_a, rows[0]), (table_b, rows[1]))]
        known = np.isfinite(np.concatenate(parts, axis=1)).all(axis=1)
        if known.any():
            found = paired_difference(*(part[known] for part in parts), best)
            results |= {f"{column}.{key}": value for key, value in found.items()}
            results[f"{column}.clips"] = int(known.sum())
            results[f"{column}.sentence"] = sentence(column, found, int(known.sum()))
    if len(results) == 4:
        raise DataError(f"{a} and {b} have no column in common: of the rows {' and '.join(rows)} one was not measured")
    return write_results(out, results)


def paired_difference(
    a: NDArray[np.float64], b: NDArray[np.float64], best: float | None, *, draws: int = DRAWS, seed: int = 0
) -> dict[str, object]:
    """Means over clips, their difference B - A with its 95 % bootstrap interval, and which is better for certain.

    a, b : (n, 2), numerator and denominator of each clip, in one order; the statistic is the quotient of their sums
    best : as in BEST; `better` is "a", "b", or "" where neither is within the interval
    """
    drawn = np.random.default_rng(seed).integers(0, len(a), size=(draws, len(a)))
    drawn = np.concatenate([np.arange(len(a))[None], drawn])  # the clips themselves first
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_a, mean_b = (part[drawn, 0].sum(1) / part[drawn, 1].sum(1) for part in (a, b))
    difference = mean_b - mean_a
    out = {"a": float(mean_a[0]), "b": float(mean_b[0]), "difference": float(difference[0]), "better": ""}
    if len(a) < 2:
        why = "an interval over clips needs at least two"
        ends = {"low": None, "low.why": why, "high": None, "high.why": why}
        return out | {f"difference.{end}": value for end, value in ends.items()}
    low, high = np.quantile(difference[1:], (0.025, 0.975))
    if best is not None:
        gain = np.sign(best) * difference if np.isinf(best) else abs(mean_a - best) - abs(mean_b - best)
        worst, most = np.quantile(gain[1:], (0.025, 0.975))
        out["better"] = "b" if worst > 0 else "a" if most < 0 else ""
    return out | {"difference.low": float(low), "difference.high": float(high)}


def sentence(column: str, found: Mapping[str, object], clips: int) -> str:
    """What `paired_difference` found of a column, in words."""
    digits = 2 if "psnr" in column else 3
    a, b, difference = (f"{found[key]:.{digits}f}" for key in ("a", "b", "difference"))
    start = f"{(COLUMNS | BY_YAW)[column]}: A {a}, B {b}"
    if found["difference.low"] is None:
        return f"{start}; one clip, so nothing is certain."
    interval = f"{difference} ({found['difference.low']:.{digits}f} to {found['difference.high']:.{digits}f})"
    if BEST[column] is None:
        verdict = "B - A is"
    else:
        verdict = {"a": "A is better, B - A is", "b": "B is better, B - A is"}.get(
            str(found["better"]), "neither is better beyond chance, B - A is"
        )
    return f"{start}; {verdict} {interval}, {clips} clips."


def _read(folder: Path) -> tuple[dict, Table]:
    """An evaluation's results, and its scores clip by clip."""
    for name in ("results.json", "table.csv"):
        if not (folder / name).is_file():
            raise DataError(f"{folder}: no {name}; `lipformer evaluate` writes one")
    with (folder / "table.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    numbers = {
        (line["clip"], line["audio_from"]): {k: float(v) for k, v in line.items() if "." in k and v} for line in lines
    }
    return json.loads((folder / "results.json").read_text(encoding="utf-8")), numbers


def _numbers(table: Table, clips: list[tuple[str, str]], key: str) -> NDArray[np.float64]:
    """Numerator and denominator (n, 2) of a column in some clips, nan where one was not measured."""
    above, below = RATIOS.get(key, (key, None))
    return np.array(
        [(table[c].get(above, np.nan), 1.0 if below is None else table[c].get(below, np.nan)) for c in clips]
    )
