"""Decoded frames as a player shows them: upright, in BT.709 colours, on a ground where transparent, of one size."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from ...errors import UnreadableMedia
from .tone import BT2020, GAMUTS, HDR, needs_conversion, strips, to_bt709

if TYPE_CHECKING:
    import av

BACKGROUND = 255  # behind a transparent picture: white
SAME_SHAPE = 0.02  # sizes whose ratios of sides differ by less are scaled into each other without a border
# By the number that a stream carries (H.273), the matrix as libswscale counts it; those of UNTAGGED are guessed.
MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
UNTAGGED = (0, 2, 3)
HD = 720  # lines from which on untagged colours count as BT.709, below as BT.601
SIDE_DATA_KINDS = 64  # more than FFmpeg knows

# Whether rows and columns change places; then the steps, 1 or -1, in which columns and rows are read.
Turn = tuple[bool, int, int]
UPRIGHT: Turn = (False, 1, 1)


class Pictures:
    """Converts the frames of one file, all to the size of the first, whatever later ones have.

    A frame of another size is fitted in, with black at two sides where its shape is another.
    """

    def __init__(self, size: tuple[int, int] | None = None, aspect: Fraction = Fraction(1)) -> None:
        """Prepare to convert.

        Args:
            size: `(width, height)` of the upright picture in stored pixels; the first frame's by default.
            aspect: width of a stored pixel over its height; pictures are made wider or higher, so that their pixels
                are square. 1 leaves them as they are stored.
        """
        from av.video.reformatter import VideoReformatter

        self.resized = 0  # frames that had another size
        self._size, self._aspect = size, aspect
        self._turns: dict[int, Turn] = {}  # by the rotation that a frame tells
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """Convert a frame to `(H, W, 3)` uint8 RGB.

        Raises:
            UnreadableMedia: its colours are coded in a way that cannot be converted.
        """
        if frame.rotation not in self._turns:
            self._turns[frame.rotation] = orientation(frame)
        turn = self._turns[frame.rotation]
        own, aspect = upright_size(frame, turn), upright_aspect(self._aspect, turn)
        self._size = self._size or own
        wanted = square_size(self._size, aspect)
        if own == self._size:
            return self._converted(frame, turn, wanted)
        self.resized += 1
        scale = np.array(wanted) / square_size(own, aspect)
        if scale.max() < scale.min() * (1 + SAME_SHAPE):
            return self._converted(frame, turn, wanted)
        inside = np.maximum(1, np.rint(np.array(square_size(own, aspect)) * scale.min())).astype(int)
        left, top = (wanted - inside) // 2
        picture = np.zeros((wanted[1], wanted[0], 3), np.uint8)
        picture[top : top + inside[1], left : left + inside[0]] = self._converted(frame, turn, tuple(inside.tolist()))
        return picture

    def _converted(self, frame: av.VideoFrame, turn: Turn, size: tuple[int, int]) -> np.ndarray:
        width, height = reversed(size) if turn[0] else size

        def rgb(layout: str) -> np.ndarray:
            return self._reformatter.reformat(
                frame,
                width=width,
                height=height,
                format=layout,
                src_colorspace=_matrix(frame),
                interpolation=_exact_colours(layout),
            ).to_ndarray()

        tags = int(frame.color_trc), int(frame.color_primaries)
        picture = to_bt709(rgb("rgb48le"), *tags) if needs_conversion(*tags) else rgb("rgb24")
        if _may_be_transparent(frame):
            _put_on_background(picture, rgb("rgba")[..., 3])
        return _turned(picture, turn)


def upright_size(frame: av.VideoFrame, turn: Turn) -> tuple[int, int]:
    """`(width, height)` of a frame when it stands upright, in stored pixels."""
    return (frame.height, frame.width) if turn[0] else (frame.width, frame.height)


def square_size(size: tuple[int, int], aspect: Fraction) -> tuple[int, int]:
    """`(width, height)` of the same picture in square pixels: its shorter-stored side grows, none shrinks."""
    width, height = size
    return (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))


def orientation(frame: av.VideoFrame) -> Turn:
    """How a stored picture is turned and mirrored to stand upright, to the nearest quarter turn."""
    matrix = _display_matrix(frame)
    if matrix is None:
        return UPRIGHT
    # Stored column p and row q are shown at column a p + c q and row b p + d q.
    a, b, c, d = (int(matrix[i]) for i in (0, 1, 3, 4))
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, -1 if a < 0 else 1, -1 if d < 0 else 1
    return True, -1 if c < 0 else 1, -1 if b < 0 else 1


def upright_aspect(aspect: Fraction, turn: Turn) -> Fraction:
    """Width over height of a stored pixel when the picture stands upright."""
    return 1 / aspect if turn[0] else aspect


def notes(frame: av.VideoFrame) -> tuple[str, ...]:
    """What of a frame's look is changed, in words for a report."""
    found = []
    transfer, primaries = int(frame.color_trc), int(frame.color_primaries)
    if transfer in HDR:
        found.append(f"the source has a high dynamic range ({HDR[transfer]}); it was tone-mapped to BT.709")
    elif primaries in GAMUTS:
        found.append(f"the source's colours are {GAMUTS[primaries]}; they were converted to BT.709")
    if _may_be_transparent(frame) and frame.reformat(format="rgba").to_ndarray()[..., 3].min() < 255:
        found.append("the source is transparent in places; it was put on white")
    off = abs((frame.rotation + 45) % 90 - 45)
    if off > 1:
        found.append(f"the source asks for a turn by {frame.rotation} degrees; it was turned to the nearest quarter")
    return tuple(found)


def _display_matrix(frame: av.VideoFrame) -> np.ndarray | None:
    """The nine numbers of a frame's display matrix, if it has one; EXIF's orientation comes as one, too."""
    # Side data and their frame hold each other until Python looks for such circles: better a tiny frame than a large.
    tiny = frame.reformat(width=16, height=16, format="gray", src_colorspace=1, dst_colorspace=1)
    try:
        data = tiny.side_data
    except ValueError:  # beside it lies data of a kind that PyAV has no name for, such as EXIF's
        data = _with_named_data(tiny).side_data
    matrix = data.get("DISPLAYMATRIX")
    return None if matrix is None else np.frombuffer(bytes(matrix), np.int32)


def _with_named_data(frame: av.VideoFrame) -> av.VideoFrame:
    """The frame without the side data that PyAV has no name for."""
    from av.filter import Graph
    from av.sidedata.sidedata import Type

    graph = Graph()
    links = [graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 25))]
    named = {kind.value for kind in Type}
    for number in (n for n in range(SIDE_DATA_KINDS) if n not in named):
        links.append(graph.add("sidedata", f"mode=delete:type={number}"))
    links.append(graph.add("buffersink"))
    for one, next_one in pairwise(links):
        one.link_to(next_one)
    graph.configure()
    graph.push(frame)
    return graph.pull()


def _matrix(frame: av.VideoFrame) -> int:
    """The matrix by which a frame's colours are coded, as libswscale counts it.

    Raises:
        UnreadableMedia: libswscale does not know it.
    """
    tag = int(frame.colorspace)
    if tag in UNTAGGED:
        if int(frame.color_trc) in HDR or int(frame.color_primaries) == BT2020:
            return MATRICES[BT2020]
        return MATRICES[1] if min(frame.height, frame.width) >= HD else MATRICES[5]
    if tag not in MATRICES and not frame.format.is_rgb:
        raise UnreadableMedia(
            f"the pictures' colours are coded by matrix {tag} of H.273, which cannot be converted; "
            "convert the video to BT.709 first"
        )
    return MATRICES.get(tag, MATRICES[1])


def _may_be_transparent(frame: av.VideoFrame) -> bool:
    return frame.format.has_palette or any(part.is_alpha for part in frame.format.components)


def _put_on_background(picture: np.ndarray, opacity: np.ndarray) -> None:
    """Mix `(H, W, 3)` uint8 with the background by `(H, W)` uint8, in place."""
    for rows in strips(picture.shape):
        cover = opacity[rows, :, None].astype(np.uint16)
        picture[rows] = (picture[rows] * cover + BACKGROUND * (255 - cover) + 127) // 255


def _turned(picture: np.ndarray, turn: Turn) -> np.ndarray:
    transposed, columns, rows = turn
    picture = picture.transpose(1, 0, 2) if transposed else picture
    return np.ascontiguousarray(picture[::rows, ::columns])


def _exact_colours(layout: str) -> int:
    """Flags for libswscale, whose default rounding darkens every picture by one to two grey levels."""
    from av.video.reformatter import Interpolation as Flag

    flags = Flag.BILINEAR | Flag.ACCURATE_RND
    # With chroma at full width libswscale writes wrong colours into 16 bits, which need no help in rounding.
    return int(flags if layout == "rgb48le" else flags | Flag.FULL_CHR_H_INT)
