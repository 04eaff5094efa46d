"""Charts of numbers: histograms, bars, tables. Like `plots`, every function returns a matplotlib Figure."""

from collections.abc import Mapping, Sequence
from textwrap import wrap

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from .plots import side_by_side

Interval = tuple[float, float, float]  # value, low, high


def histograms(panels: Mapping[str, Mapping[str, ArrayLike]]) -> Figure:
    """One panel a quantity, one outline a group: panel title to group to values, drawn as densities."""
    figure, axes = side_by_side(len(panels), 2.7 * len(panels), 2.3)
    for axis, (name, groups) in zip(axes, panels.items(), strict=True):
        joined = np.concatenate([np.ravel(values) for values in groups.values()])
        edges = np.linspace(joined.min(), joined.max() + 1e-6, 31)
        for group, values in groups.items():
            axis.hist(np.ravel(values), edges, density=True, histtype="step", linewidth=1.4, label=group)
        axis.set_xlabel(name, fontsize=8)
        axis.set_yticks([])
    axis.legend(fontsize=7, frameon=False)
    return figure


def landmarks_over(images: NDArray | Sequence[NDArray], landmarks: NDArray) -> Figure:
    """Landmarks (n, 68, 2) drawn on crops (n, S, S, 3), mouth in another colour; the dashed line splits the halves."""
    figure, axes = side_by_side(len(images), 1.5 * len(images), 1.6)
    for axis, image, points in zip(axes, images, landmarks, strict=True):
        axis.imshow(image)
        axis.scatter(*points[:48].T, s=1.5, color="cyan")
        axis.scatter(*points[48:].T, s=1.5, color="yellow")
        axis.axhline(len(image) / 2 - 0.5, color="white", linewidth=0.8, linestyle="--")
        axis.set(xticks=[], yticks=[], xlim=(-0.5, len(image) - 0.5), ylim=(len(image) - 0.5, -0.5))
    return figure


def correspondence_sheet(frame_a: NDArray, frame_b: NDArray, flow: NDArray, visible: NDArray) -> Figure:
    """Dense correspondence: frame b read where each pixel of a lies in it is a again, but for what only one shows.

    frames uint8 (S, S, 3); flow (S, S, 2) absolute pixels in b; visible (S, S) bool: seen in both frames.
    """
    import cv2

    pulled = cv2.remap(frame_b, flow[..., 0], flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    hidden = np.where(visible[..., None], pulled, 0)
    apart = np.abs(hidden.astype(int) - np.where(visible[..., None], frame_a, 0)).mean(axis=-1)
    panels = {"frame a": frame_a, "frame b": frame_b, "b in a's pose": hidden, "difference to a": apart}
    figure, axes = side_by_side(len(panels), 9, 2.1)
    for axis, (name, picture) in zip(axes, panels.items(), strict=True):
        axis.imshow(picture, **({"cmap": "magma", "vmin": 0, "vmax": 64} if picture.ndim == 2 else {}))
        axis.set_title(name, fontsize=8)
        axis.set(xticks=[], yticks=[])
    return figure


def usage_bars(counts: Mapping[str, NDArray]) -> Figure:
    """How often each code of a codebook is used, the most frequent first: name to (K,) counts."""
    figure, axes = side_by_side(len(counts), 4 * len(counts), 2.2)
    for axis, (name, counted) in zip(axes, counts.items(), strict=True):
        share = np.sort(counted)[::-1] / counted.sum()
        axis.bar(np.arange(len(share)), share, width=1.0)
        axis.axhline(1 / len(share), color="black", linewidth=0.8, linestyle="--")
        axis.set_title(f"{name}: {(counted > 0).mean():.1%} of {len(counted)} codes in use", fontsize=9)
        axis.set_xlabel("code, by frequency", fontsize=8)
    return figure


def ratio_bars(groups: Mapping[str, Mapping[str, Interval]], *, ylabel: str = "") -> Figure:
    """Bars with intervals around 1: group to label to (value, low, high); a missing interval is left out."""
    labels = list(next(iter(groups.values())))
    figure, (axis,) = side_by_side(1, 2.2 + 1.3 * len(labels), 2.6)
    width = 0.8 / len(groups)
    for number, (group, rows) in enumerate(groups.items()):
        values, low, high = np.array([rows[label] for label in labels], float).T
        at = np.arange(len(labels)) + (number - (len(groups) - 1) / 2) * width
        spread = np.nan_to_num(np.clip(np.stack([values - low, high - values]), 0, None))
        axis.bar(at, values, width * 0.92, yerr=spread, capsize=2, error_kw={"linewidth": 0.8}, label=group)
        for x, value in zip(at, values, strict=True):
            axis.text(x, value / 2, f"{value:.2f}", ha="center", va="center", fontsize=8, color="white")
    axis.axhline(1, color="black", linewidth=0.8, linestyle="--")
    axis.set_xticks(range(len(labels)), labels, fontsize=8)
    axis.set_ylabel(ylabel, fontsize=8)
    axis.legend(fontsize=8, frameon=False, ncols=len(groups), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def cumulative(groups: Mapping[str, ArrayLike], *, xlabel: str) -> Figure:
    """Share of the values below x, one curve a group, its median in the legend."""
    figure, (axis,) = side_by_side(1, 4.6, 2.6)
    for name, values in groups.items():
        ordered = np.sort(np.ravel(values))
        below = (np.arange(len(ordered)) + 1) / len(ordered)
        axis.plot(ordered, below, label=f"{name}: median {np.median(ordered):.2f}")
    axis.set(xlabel=xlabel, ylabel="share", xlim=(0, max(np.quantile(v, 0.98) for v in groups.values())))
    axis.legend(fontsize=8, frameon=False)
    return figure


def sync_training(log: Mapping[str, Sequence[float]]) -> Figure:
    """The sync expert's curves beside what guessing gives; log: `training.journal.read_log` of RUN/sync."""
    figure, axes = side_by_side(2, 6.4, 2.4)
    step = np.asarray(log["step"])
    panels = (
        ("loss", {"loss": "training", "val_loss": "validation", "chance": "chance"}),
        ("won", {"val_shift_wins": "against moved sound", "val_foreign_wins": "against foreign sound"}),
    )
    for axis, (label, curves) in zip(axes, panels, strict=True):
        for name, text in curves.items():
            values = np.asarray(log[name])
            known = np.isfinite(values)
            style = {"color": "black", "linestyle": "--", "linewidth": 0.8} if name == "chance" else {}
            axis.plot(step[known], values[known], label=text, **style)
        axis.set(xlabel="step", ylabel=label, xlim=(0, None), ylim=(0, None))
        axis.legend(fontsize=8, frameon=False)
    axis.axhline(0.5, color="black", linestyle="--", linewidth=0.8)
    axis.text(0.02, 0.51, "chance", fontsize=8, transform=axis.get_yaxis_transform())
    return figure


def sync_offsets(curves: Mapping[str, ArrayLike]) -> Figure:
    """How often the sync expert is right, by offset, with the chance line: label to `SyncAccuracy.curves`' values.

    The last value of a curve, against other people's sound, stands apart from the offsets.
    """
    figure, (axis,) = side_by_side(1, 6.4, 2.8)
    for label, values in curves.items():
        moved, foreign = np.split(100 * np.asarray(values, float), [-1])
        reach = len(moved) // 2
        offsets = np.arange(-reach, reach + 1)
        known = np.isfinite(moved)
        (line,) = axis.plot(offsets[known], moved[known], marker="o", markersize=3, label=label)
        axis.plot([reach + 2], foreign, marker="D", markersize=5, color=line.get_color())
    axis.axhline(50, color="black", linewidth=0.8, linestyle="--")
    axis.text(-reach, 50.5, "chance", fontsize=8)
    axis.set_xticks([*offsets[known], reach + 2], [*(f"{k:+d}" for k in offsets[known]), "foreign"], fontsize=8)
    axis.set(xlabel="sound moved by so many frames (40 ms)", ylabel="right, %", ylim=(40, 101))
    axis.legend(fontsize=8, frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def distance_curves(curves: Mapping[str, ArrayLike], *, reach: int) -> Figure:
    """Distances to sounds moved from -reach to reach frames: label to (2 reach + 1,)."""
    figure, (axis,) = side_by_side(1, 4.6, 2.6)
    for label, values in curves.items():
        axis.plot(np.arange(-reach, reach + 1), values, label=label)
    axis.axvline(0, color="black", linewidth=0.8, linestyle="--")
    axis.set(xlabel="sound moved by so many frames (40 ms)", ylabel="distance")
    axis.legend(fontsize=8, frameon=False)
    return figure


def score_table(
    results: Mapping[str, object], rows: Mapping[str, str], columns: Mapping[str, str], *, title: str = ""
) -> Figure:
    """Flat results `row.column` as a table, systems side by side and one measurement a line.

    A cell shows the mean with its interval beneath; where a number is missing everywhere but somebody said why, the
    line says it. rows, columns: key to what to call it; a row without any number is left out.
    """
    rows = {row: name for row, name in rows.items() if any(results.get(f"{row}.{c}") is not None for c in columns)}
    lines = []
    for column, name in columns.items():
        cells = [_cell(results, f"{row}.{column}", column) for row in rows]
        why = next((results[f"{row}.{column}.why"] for row in rows if results.get(f"{row}.{column}.why")), None)
        if any(cells) or why:
            lines.append((name, cells, None if any(cells) else str(why)))
    width = 1.55 * (len(rows) + 1)
    figure = Figure(figsize=(width, 0.36 * len(lines) + 0.9))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, len(rows) + 1), ylim=(len(lines) + 1.5, -0.7))
    axis.set_axis_off()
    for x, heading in enumerate(rows.values(), start=1):
        axis.text(x + 0.5, 0.75, "\n".join(wrap(heading, 18)), ha="center", va="center", fontsize=8, weight="bold")
    for y, (name, cells, why) in enumerate(lines, start=2):
        axis.axhline(y - 0.5, color="lightgrey", linewidth=0.6)
        axis.text(0.05, y, name, va="center", fontsize=8)
        if why:
            axis.text(1.1, y, "\n".join(wrap(why, int(width * 14))[:2]), va="center", fontsize=6, style="italic")
        for x, cell in enumerate(cells, start=1):
            axis.text(x + 0.5, y, cell, ha="center", va="center", fontsize=7.5)
    if title:
        axis.text(0.05, -0.3, title, va="center", fontsize=8)
    return figure


def _cell(results: Mapping[str, object], key: str, column: str) -> str:
    mean, low, high = (results.get(key + end) for end in ("", ".low", ".high"))
    if mean is None:
        return ""
    digits = 1 if "psnr" in column or column in ("fid", "generate_fps") else 3
    interval = "" if low is None or high is None else f"\n{low:.{digits}f} to {high:.{digits}f}"
    return f"{mean:.{digits}f}{interval}"


def stacked_bars(rows: Mapping[str, Mapping[str, float]], *, xlabel: str) -> Figure:
    """One bar a row, made of its parts one after another: row to part to value; all rows have the same parts."""
    figure, (axis,) = side_by_side(1, 6.4, 1.2 + 0.35 * len(rows))
    left = np.zeros(len(rows))
    for part in next(iter(rows.values())):
        values = np.array([row[part] for row in rows.values()])
        axis.barh(list(rows), values, left=left, height=0.6, label=part)
        left += values
    axis.invert_yaxis()
    axis.set_xlabel(xlabel, fontsize=8)
    axis.legend(fontsize=7, frameon=False, ncols=len(rows[next(iter(rows))]), loc="lower left", bbox_to_anchor=(0, 1))
    return figure
