"""Figures of the notebooks and reports. Every function returns a matplotlib Figure and shows nothing by itself."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from ..timing import FPS, MEL_PER_FRAME

CELL = 1.05  # inches of a picture in a sheet


def side_by_side(count: int, width: float, height: float) -> tuple[Figure, list]:
    """A figure of so many inches in all, and its axes in one row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def contact_sheet(rows: Mapping[str, Sequence[NDArray]], *, title: str = "", columns: Sequence[str] = ()) -> Figure:
    """Pictures in labelled rows: label to pictures (H, W, 3) uint8; rows may differ in length.

    columns: headings over the first row.
    """
    count = max((len(images) for images in rows.values()), default=0)
    if not count:
        raise ValueError("a contact sheet needs at least one picture")
    figure = Figure(figsize=(CELL * count + 1.9, CELL * len(rows) + 0.35), layout="constrained")
    axes = figure.subplots(len(rows), count, squeeze=False)
    for line, (label, images) in zip(axes, rows.items(), strict=True):
        for axis in line:
            axis.set(xticks=[], yticks=[])
            axis.set_frame_on(False)
        for axis, image in zip(line, images, strict=False):
            axis.imshow(image)
        line[0].set_ylabel(wrapped(label), rotation=0, ha="right", va="center", fontsize=8)
    for axis, heading in zip(axes[0], columns, strict=False):
        axis.set_title(heading, fontsize=8)
    if title:
        figure.suptitle(title, fontsize=9)
    return figure


def opening_curves(curves: Mapping[str, ArrayLike], *, title: str = "") -> Figure:
    """Lip openings over time at 25 frames/s: label to (n,) in inter-ocular distances; the first is drawn bold."""
    figure, (axis,) = side_by_side(1, 8, 2.4)
    for number, (label, values) in enumerate(curves.items()):
        values = np.asarray(values)
        style = {"color": "black", "linewidth": 2} if number == 0 else {"linewidth": 1.3}
        axis.plot(np.arange(len(values)) / FPS, values, label=label, **style)
    axis.set(xlabel="time in s", ylabel="lip opening /\ninter-ocular distance", title=title)
    axis.legend(fontsize=8, ncols=len(curves), frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def sound_and_lips(samples: NDArray, rate: int, opening: ArrayLike, fps: float, *, title: str = "") -> Figure:
    """A waveform over the lip opening: (k,) at `rate`, and (n,) in eye distances at `fps`, NaN where unknown."""
    figure = Figure(figsize=(8, 2.6), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    end = len(opening) / fps
    samples = samples[: round(end * rate)]
    above.plot(np.arange(len(samples)) / rate, samples, linewidth=0.4, color="grey")
    above.set(ylabel="sound", yticks=[], title=title)
    below.plot(np.arange(len(opening)) / fps, opening, color="black", linewidth=1.3)
    below.set(xlabel="time in s", ylabel="lip opening", xlim=(0, end), ylim=(0, None))
    return figure


def training_curves(log: Path | str, names: Sequence[str] | None = None) -> Figure:
    """Curves of a training log, one panel a name. log: a CSV with the columns step, name, value.

    names: what to draw, in order; None: everything. Raises ValueError naming what is not in the log.
    """
    curves: dict[str, list[tuple[float, float]]] = {}
    with Path(log).open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            curves.setdefault(line["name"], []).append((float(line["step"]), float(line["value"])))
    names = list(curves if names is None else names)
    absent = [name for name in names if name not in curves]
    if absent or not names:
        raise ValueError(f"{log}: has {', '.join(curves) or 'no values'}; not in it: {', '.join(absent) or 'anything'}")
    figure = Figure(figsize=(3.0 * min(4, len(names)), 2.4 * -(-len(names) // 4)), layout="constrained")
    axes = figure.subplots(-(-len(names) // 4), min(4, len(names)), squeeze=False).ravel()
    for axis, name in zip(axes, names, strict=False):
        steps, values = zip(*curves[name], strict=True)
        axis.plot(steps, values, marker="." if len(values) < 30 else "")
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        if "usage" in name:
            axis.set_ylim(0, 1.05)  # a share
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    return figure


def mel_under_mouths(frames: NDArray, mel: NDArray, *, first_frame: int = 0) -> Figure:
    """Crops over the sound they belong to: (n, S, S, 3) uint8 at 25 frames/s and the clip's whole log-mel (T, 80)."""
    n = len(frames)
    start = first_frame * MEL_PER_FRAME
    figure = Figure(figsize=(min(12, CELL * n), 3.2), layout="constrained")
    figure.get_layout_engine().set(wspace=0, w_pad=0.02)
    cells = figure.add_gridspec(2, n, height_ratios=[1, 1.6])
    for column, image in enumerate(frames):  # each crop stands over its own 40 ms of sound
        axis = figure.add_subplot(cells[0, column])
        axis.imshow(image)
        axis.set_axis_off()
    axis = figure.add_subplot(cells[1, :])
    part = mel[start : start + n * MEL_PER_FRAME].T
    times = (first_frame / FPS, (first_frame + n) / FPS)
    axis.imshow(part, origin="lower", aspect="auto", extent=(*times, 0, 80), cmap="magma", vmin=-1, vmax=1)
    for frame in range(1, n):
        axis.axvline((first_frame + frame) / FPS, color="white", linewidth=0.4)
    axis.set(xlabel="time in s", ylabel="mel band")
    return figure


def mouth_heat_maps(groups: Mapping[str, tuple[NDArray, NDArray]]) -> Figure:
    """What alignment is worth: a column a group with its mean crop, and where the lips and the chin lie on it.

    groups: label to crops (n, S, S, 3) uint8 and landmarks (n, 68, 2) in crop pixels. A sharp mean face is a good
    alignment; the dashed line splits the halves.
    """
    figure = Figure(figsize=(2.6 * len(groups), 5.6), layout="constrained")
    for column, (label, (frames, landmarks)) in zip(
        figure.subplots(2, len(groups), squeeze=False).T, groups.items(), strict=True
    ):
        mean, size = np.asarray(frames, dtype=np.float32).mean(axis=0), frames.shape[1]
        lips, chin = landmarks[:, 48:68], landmarks[:, 7:10]  # (n, k, 2)
        column[0].imshow(mean.astype(np.uint8))
        column[0].set_title(f"{label}\nmean of {len(frames)} crops", fontsize=9)
        column[1].imshow(mean.mean(axis=-1), cmap="gray")
        for points, colours in ((chin, "Blues"), (lips, "inferno")):
            heat = _density(points.reshape(-1, 2), size)
            column[1].imshow(heat, cmap=colours, alpha=np.clip(2 * heat, 0, 0.9), vmin=0, vmax=1)
        below, inside = (lips[..., 1] > size / 2 - 0.5).mean(), (chin[:, 1, 1] < size - 0.5).mean()
        column[1].set_title(f"lips below the line: {below:.1%}\nchins in the crop: {inside:.1%}", fontsize=9)
        for axis in column:
            axis.axhline(size / 2 - 0.5, color="white", linewidth=0.8, linestyle="--")
            axis.set(xticks=[], yticks=[])
    return figure


def _density(points: NDArray, size: int) -> NDArray:
    """How many of the points (k, 2) lie at each pixel of a crop, smoothed, 1 where most do: (size, size)."""
    from scipy.ndimage import gaussian_filter

    counts = np.histogram2d(points[:, 1], points[:, 0], bins=size, range=[[-0.5, size - 0.5]] * 2)[0]
    heat = gaussian_filter(counts, size / 96)
    return heat / max(heat.max(), 1e-9)


def warp_grid(image: NDArray, grid: NDArray) -> Figure:
    """A sampling grid drawn on the picture it samples, and whence every second token of a row and column comes.

    image (H, W, 3) uint8, the reference's bottom half; grid (h, w, 2) x and y in [-1, 1] with -1 and 1 at the outer
    edges of the outer pixels (align_corners=False): where each token of the result is taken from.
    """
    height, width = image.shape[:2]
    rows, columns = grid.shape[:2]
    scale = np.array([width, height])
    taken = (np.asarray(grid, dtype=float) + 1) / 2 * scale - 0.5
    x, y = (np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows
    own = np.stack(np.meshgrid(x, y), axis=-1) * scale - 0.5
    moved = taken - own
    figure, (left, right) = side_by_side(2, 9, 2.6)
    left.imshow(image)
    left.plot(taken[..., 0], taken[..., 1], color="cyan", linewidth=0.8)
    left.plot(taken[..., 0].T, taken[..., 1].T, color="cyan", linewidth=0.8)
    left.set_title("where the warp looks", fontsize=9)
    right.imshow(image, alpha=0.5)
    arrows = (*own[::2, ::2].reshape(-1, 2).T, *moved[::2, ::2].reshape(-1, 2).T)
    right.quiver(*arrows, angles="xy", scale_units="xy", scale=1, color="crimson", width=0.004)
    right.set_title("where each place is taken from", fontsize=9)
    for axis in (left, right):
        axis.set(xticks=[], yticks=[], xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    return figure


def wrapped(label: str, width: int = 18) -> str:
    """A label in lines."""
    import textwrap

    return "\n".join(textwrap.wrap(label, width))
