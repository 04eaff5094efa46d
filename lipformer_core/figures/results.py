"""The paper's two figures of results, made of one's own material: a strip with mouth close-ups, a grid of sounds."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch, Rectangle
from numpy.typing import NDArray

from .plots import CELL, wrapped

MOUTH = 0.28, 0.52, 0.44, 0.36  # of an aligned crop's side: left, top, width and height of what is shown large
GREEN = "#21d66b"


def close_ups(rows: Mapping[str, Sequence[NDArray]], at: int, *, title: str = "") -> Figure:
    """Label to frames (n of S, S, 3 uint8) in order of time, a row each; the mouth of frame `at` large beside them."""
    count = len(next(iter(rows.values())))
    figure = Figure(figsize=(CELL * (count + 1.3) + 1.5, CELL * len(rows) + 0.3), layout="constrained")
    figure.get_layout_engine().set(wspace=0.01, hspace=0.01, w_pad=0.02, h_pad=0.02)
    axes = figure.subplots(len(rows), count + 1, squeeze=False, width_ratios=[*(1,) * count, 1.25])
    for line, (label, images) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(line, images, strict=False):
            axis.imshow(image)
        left, top, width, height = (round(part * len(images[at])) for part in MOUTH)
        line[-1].imshow(images[at][top : top + height, left : left + width])
        line[at].add_patch(Rectangle((left, top), width, height, fill=False, color=GREEN, linewidth=1.2))
        for corner, end in (((left + width, top), (0, 1)), ((left + width, top + height), (0, 0))):
            ends = {"xyA": corner, "coordsA": line[at].transData, "xyB": end, "coordsB": line[-1].transAxes}
            figure.add_artist(ConnectionPatch(**ends, color=GREEN, linewidth=0.9, linestyle=":"))
        for axis in line:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set(visible=axis is line[-1], color=GREEN, linewidth=1.5)
        line[0].set_ylabel(wrapped(label), rotation=0, ha="right", va="center", fontsize=8)
    if title:
        figure.suptitle(title, fontsize=9)
    return figure


def exchange_grid(faces: NDArray, speakers: NDArray, generated: NDArray, *, title: str = "") -> Figure:
    """Every face under every sound: rows are faces, columns are whose sound it is; the own ones are framed.

    faces (n, S, S, 3): what was filmed; speakers (m, S, S, 3): each sound's own speaker at that moment; generated
    (n, m, S, S, 3), uint8 all.
    """
    size = len(faces) + 1, len(speakers) + 1
    figure = Figure(figsize=(1.3 * size[1] + 0.3, 1.3 * size[0] + 0.5), layout="constrained")
    figure.get_layout_engine().set(wspace=0.01, hspace=0.01, w_pad=0.02, h_pad=0.02)
    axes = figure.subplots(*size)
    for place in np.ndindex(size):
        row, column = place[0] - 1, place[1] - 1
        own = row == column >= 0
        axes[place].set(xticks=[], yticks=[])
        axes[place].spines[:].set(visible=own, color=GREEN, linewidth=2)
        if row >= 0 or column >= 0:
            picture = speakers[column] if row < 0 else faces[row] if column < 0 else generated[row, column]
            axes[place].imshow(picture)
    axes[0, 0].text(0.97, 0.55, "whose sound →", ha="right", fontsize=8, transform=axes[0, 0].transAxes)
    axes[0, 0].text(0.97, 0.1, "whose face ↓", ha="right", fontsize=8, transform=axes[0, 0].transAxes)
    if title:
        figure.suptitle(title, fontsize=9)
    return figure
