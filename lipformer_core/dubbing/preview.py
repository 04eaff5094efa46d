"""What a person sees before and after a dubbing: faces to choose from, source and result side by side, the lips."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

import numpy as np

from ..data.faces import open_tracker
from ..data.faces.alignment import mouth_shape
from ..data.faces.tracking import track_faces
from ..data.media import Damage, FrameReader, VideoWriter, frame_times, iter_frames, probe
from ..data.media.pictures import square_size
from .report import COMMENT, DubReport
from .source_face import open_trackers
from .timeline import output_order

BEGINNING_S = 20.0  # seconds of a video in which faces are looked for
THUMBNAIL = 96  # pixels
SHOWN_S = 120.0  # seconds of a result that are shown


def faces_at(video: str | os.PathLike, count: int = 6) -> dict[float, list[np.ndarray]]:
    """The faces in `count` pictures of a video's beginning: seconds to cut-outs (96, 96, 3) uint8, from the left on.

    Moments that show no face are left out.

    Raises:
        NoVideoStream, UnreadableMedia: no picture can be read.
        WeightsMissing: no landmark network is present.
    """
    found, tracker = {}, open_tracker()
    due = np.linspace(0, min(probe(video).pictures_s, BEGINNING_S), count, endpoint=False).tolist()
    for moment, picture in iter_frames(video, square=True):
        if moment >= due[0]:
            due = [later for later in due if later > moment]
            faces = sorted((points for points, _ in tracker.detect(picture)), key=lambda points: points[:, 0].min())
            found |= {moment: [_cut_out(picture, points) for points in faces]} if faces else {}
            if not due:
                break
    return found


def _cut_out(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    import cv2

    middle, half = (points.min(0) + points.max(0)) / 2, 0.75 * np.ptp(points, axis=0).max()
    (left, top), (right, bottom) = (np.rint(middle + side * half).astype(int) for side in (-1, 1))
    inside = picture[max(top, 0) : bottom, max(left, 0) : right]
    return cv2.resize(inside, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)


def side_by_side(report: DubReport, out: str | os.PathLike, height: int = 480, seconds: float = SHOWN_S) -> Path:
    """Write the source, on the result's time line, to the left of the result, with its sound: an mp4 any browser plays.

    Args:
        report: of a dubbing of a whole video, without `start` and `end`.
        out: the file to write.
        height: pixels, at most.
        seconds: how much of the result is shown.
    """
    import cv2

    damage = Damage()
    source, times = probe(report.video), frame_times(report.video, damage)
    order = output_order(times, source, report.duration_s, report.settings["policy"])[: round(seconds * report.fps)]
    size = np.array(square_size((report.width, report.height), source.pixel_aspect))
    size = tuple((2 * np.rint(size * min(1, height / size[1]) / 2)).astype(int).tolist())
    with (
        FrameReader(report.video, times, (source.width, source.height), seekable=not damage.leaps) as before,
        VideoWriter(out, 2 * size[0], size[1], report.fps, report.out, metadata={"comment": COMMENT}) as writer,
    ):
        for index, (_, after) in zip(order, iter_frames(report.out), strict=False):
            pair = [cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in (before[index], after)]
            writer.write(np.concatenate(pair, axis=1))
    return Path(out)


def lip_opening(video: str | os.PathLike, face: str | int = "largest", seconds: float = SHOWN_S) -> np.ndarray:
    """How far the lips of a face are open in each picture, `(n,)` in eye distances; NaN where the face is not seen.

    Raises:
        NoFaceFound, WeightsMissing, UnreadableMedia: as `dub`.
    """
    pictures = (picture for _, picture in islice(iter_frames(video, square=True), round(seconds * probe(video).fps)))
    track = track_faces(pictures, open_trackers(), face)
    return np.where(track.valid, mouth_shape(track.landmarks)[0], np.nan)
