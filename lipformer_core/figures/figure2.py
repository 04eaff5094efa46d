"""Figure 2 of the paper, redrawn: the whole method on one sheet, with the part that is being spoken of coloured.

`python -m lipformer_core.figures.figure2 FILE [PART]` writes it as an SVG or PNG.
"""

import sys
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

PARTS = ("codebook", "warping", "transformer", "decoder", "data", "evaluation", "dubbing", "speed", "sync")
# parts that are not the method's own: the boxes that they make, score, or put together
ACROSS = {
    "data": ("face", "tu", "ru", "rb", "audio"),
    "evaluation": ("rec", "rb", "warped", "gen"),
    "dubbing": ("tu", "ru", "rb", "audio", "gen"),
    "speed": ("tu", "htu", "grid", "warped", "audio", "layers", "codes", "stack", "dec", "gen"),
    "sync": ("audio", "gen"),
}
GREY, INK, LIT, LIT_EDGE = "#eceff3", "#2b2f36", "#cfe3ff", "#2f6fd0"


class Box(NamedTuple):
    """One box: what stands in it, its centre and size in inches, and the part of the method that it belongs to."""

    text: str
    x: float
    y: float
    width: float
    part: str


BOXES = {
    # (a) stage 1
    "face": Box("face $I_T$\n$T_U$ over $T_B$", 0.85, 3.9, 1.3, "codebook"),
    "enc1": Box("Enc\none, for each half", 0.85, 3.05, 1.3, "codebook"),
    "cu1": Box("codes\n$C_U$", 0.48, 2.2, 0.6, "codebook"),
    "cb1": Box("codes\n$C_B$", 1.22, 2.2, 0.6, "codebook"),
    "dec1": Box("Dec", 0.85, 1.35, 1.3, "codebook"),
    "rec": Box("$I_{Rec}$", 0.85, 0.6, 1.3, "codebook"),
    # (b) stage 2
    "tu": Box("target, upper\n$T_U$", 2.55, 3.9, 1.3, "warping"),
    "ru": Box("reference, upper\n$R_U$", 2.55, 3.05, 1.3, "warping"),
    "rb": Box("reference, bottom\n$R_B$", 2.55, 2.2, 1.3, "warping"),
    "htu": Box("Enc, $C_U$\n$H_{TU}$", 4.05, 3.9, 1.05, "warping"),
    "hru": Box("Enc, $C_U$\n$H_{RU}$", 4.05, 3.05, 1.05, "warping"),
    "hrb": Box("Enc, $C_B$\n$H_{RB}$", 4.05, 2.2, 1.05, "warping"),
    "grid": Box("$F_d(F_e(H_{TU})-F_e(H_{RU}))$\ngrid $G_{RB}$", 5.85, 3.05, 1.75, "warping"),
    "warped": Box("bilinear sampling\n$\\hat H_{RB}$", 5.85, 2.2, 1.75, "warping"),
    "cb": Box("codebook $C_B$\nkeys and values", 8.0, 3.05, 1.35, "transformer"),
    "layers": Box("N × (MHCA, CLN, FFN)\nTransformer", 8.0, 2.2, 1.6, "transformer"),
    "audio": Box("audio\n$E_{aud}$: $F_{Aud}$", 8.0, 1.35, 1.35, "transformer"),
    "codes": Box("Gumbel-softmax\nlip codes $\\tilde H_{TB}$", 9.95, 2.2, 1.4, "transformer"),
    "stack": Box("⊕\nalong the height", 9.95, 3.9, 1.4, "decoder"),
    "dec": Box("Dec\n(fine-tuned)", 11.4, 3.9, 0.95, "decoder"),
    "gen": Box("$I_{Gen}$", 11.4, 3.05, 0.95, "decoder"),
}
HEIGHT = 0.5  # of every box, inches
ARROWS = (
    ("face", "enc1"), ("enc1", "cu1"), ("enc1", "cb1"), ("cu1", "dec1"), ("cb1", "dec1"), ("dec1", "rec"),
    ("tu", "htu"), ("ru", "hru"), ("rb", "hrb"), ("htu", "grid"), ("hru", "grid"), ("grid", "warped"),
    ("hrb", "warped"), ("warped", "layers"), ("cb", "layers"), ("audio", "layers"), ("layers", "codes"),
    ("codes", "stack"), ("htu", "stack"), ("stack", "dec"), ("dec", "gen"),
)  # fmt: skip


def figure2(part: str | None = None) -> Figure:
    """Both stages of LipFormer as a block diagram, in the paper's symbols.

    part : one of PARTS, which is then coloured; None colours nothing
    raises ValueError for another part
    """
    if part is not None and part not in PARTS:
        raise ValueError(f"part: {part!r} is none of {', '.join(PARTS)}")
    figure = Figure(figsize=(12.1, 4.55))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, 12.1), ylim=(0, 4.55))
    axis.set_axis_off()
    for name, box in BOXES.items():
        lit = part in (box.part, *(p for p, names in ACROSS.items() if name in names))
        corner, rounded = (box.x - box.width / 2, box.y - HEIGHT / 2), "round,pad=0.02,rounding_size=0.07"
        colours = {"facecolor": LIT, "edgecolor": LIT_EDGE} if lit else {"facecolor": GREY, "edgecolor": INK}
        style = {"boxstyle": rounded, "linewidth": 1.8 if lit else 0.8, "gid": name, **colours}
        axis.add_patch(FancyBboxPatch(corner, box.width, HEIGHT, **style))
        axis.text(box.x, box.y, box.text, ha="center", va="center", fontsize=8.5, color=INK)
    for start, end in ARROWS:
        _arrow(axis, BOXES[start], BOXES[end])
    axis.plot([1.75, 1.75], [0.3, 4.3], color=INK, linewidth=0.8, linestyle=(0, (4, 4)))
    axis.text(0.85, 4.38, "(a) stage 1: codebooks", ha="center", fontsize=9, weight="bold", color=INK)
    axis.text(
        6.9, 4.38, "(b) stage 2: LipFormer, with Enc, $C_U$, $C_B$ frozen", ha="center", fontsize=9, weight="bold"
    )
    return figure


def _arrow(axis: object, start: Box, end: Box) -> None:
    """From the edge of one box to the edge of another: sideways where they stand side by side, else up or down."""
    sideways = abs(end.x - start.x) > (start.width + end.width) / 2
    if sideways:
        a = (start.x + start.width / 2 + 0.03, start.y)
        b = (end.x - end.width / 2 - 0.03, end.y)
    else:
        down = -1 if end.y < start.y else 1
        a, b = (start.x, start.y + down * (HEIGHT / 2 + 0.03)), (end.x, end.y - down * (HEIGHT / 2 + 0.03))
        if start.width > end.width:  # one box above two
            a = (end.x, a[1])
        elif start.width < end.width:
            b = (start.x, b[1])
    axis.add_patch(FancyArrowPatch(a, b, arrowstyle="-|>", mutation_scale=9, color=INK, shrinkA=0, shrinkB=0))


if __name__ == "__main__":
    figure2(*sys.argv[2:]).savefig(
        sys.argv[1], dpi=110, metadata={"Date": None} if sys.argv[1].endswith(".svg") else None
    )
