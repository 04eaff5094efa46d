"""The face in a source's pictures: followed, in square pixels, and who lends the mouth's texture."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from numbers import Integral
from pathlib import Path

import numpy as np

from ..data.faces import Tracker, open_tracker
from ..data.faces.alignment import mouth_shape, transform_points, valid_runs, warp_crop
from ..data.faces.recognition import DOUBTFUL, Person
from ..data.faces.tracking import FaceTrack, appearances, load_track, track_faces
from ..data.media import Damage, FrameReader, MediaInfo, frame_times, iter_frames
from ..data.media.pictures import square_size
from ..data.prepared.prefetch import taken_ahead
from ..errors import ConfigError, DataError, NoFaceFound
from ..speaker import Speaker
from .timeline import CLOCK_SLACK, Told, picture_at

TRACKERS = 4  # threads at most that look for faces


def open_trackers() -> Tracker:
    """The landmark network of a dubbing, with a thread a core."""
    return open_tracker(threads=min(os.cpu_count() or 1, TRACKERS))


def parse_face(face: object, folder: Path = Path()) -> str | int | Path:
    """`largest`, a face's number from the image's left, or a picture's path from `folder` on. ConfigError otherwise."""
    if isinstance(face, Integral) and face >= 0:
        return int(face)
    text = os.fspath(face) if isinstance(face, str | os.PathLike) else ""
    if text == "largest":
        return text
    if text.isdecimal() and len(text) < 10:
        return int(text)
    if text and (folder / text).is_file():
        return folder / text
    raise ConfigError(
        f"face {face}: write `largest`, a number from 0, or a picture of the person; there is no file {folder / text}"
    )


def follow(
    source: MediaInfo,
    landmarks: str | os.PathLike | None,
    tracker: Tracker | None,
    face: str | int | Person,
    stretch: tuple[float, float],
    told: Told,
    damage: Damage,
) -> tuple[np.ndarray, FaceTrack]:
    """Times of the source's pictures, and the face in those that are on the screen within `stretch`, in seconds.

    Landmarks are in square pixels. Pictures before the stretch have rows that are not valid, and so has the first one
    after it, which tells how long the last one stays.

    Raises:
        ConfigError: the stretch begins behind the last picture.
        DataError, NoFaceFound, WeightsMissing: as `dub`.
    """
    start, end = stretch
    if landmarks is not None:
        times, track = frame_times(source.path, damage), load_track(landmarks)
        if len(track) != len(times):
            raise DataError(
                f"{landmarks}: {len(track)} rows of landmarks for the {len(times)} pictures of {source.path}"
            )
        _check_start(source, start, times[-1])
        shown = (np.arange(len(times)) >= picture_at(times, start)) & (times < end)
        inside = (track.landmarks >= 0) & (track.landmarks < (source.width, source.height))
        square = transform_points(square_pixels(source)[:2], track.landmarks)
        track = replace(track, landmarks=square, valid=track.valid & shown & inside.all(2).any(1))
        if not track.valid.any():
            raise NoFaceFound(f"{landmarks}: not a single row is valid and in the picture")
        return times, track
    times: list[float] = []

    def pictures() -> Iterator[np.ndarray]:
        expected = min(end, source.pictures_s or end)
        on_screen = None  # at `start`: the last picture that came before
        with closing(taken_ahead(iter_frames(source.path, damage, square=True))) as decoded:
            for moment, picture in decoded:
                times.append(moment)
                if moment >= end:
                    break
                told(min(moment / expected, 1.0))
                if moment <= start + CLOCK_SLACK:
                    on_screen = picture
                    continue
                if on_screen is not None:
                    yield on_screen
                    on_screen = None
                yield picture
        if on_screen is not None:
            _check_start(source, start, times[-1])
            yield on_screen

    tracker = tracker or open_trackers()
    with closing(pictures()) as shown:
        track = track_faces(shown, tracker, face)
    rows = (track.landmarks, track.pose, track.valid, track.interpolated, track.shot, track.other)
    after = int(times[-1] >= end)
    before = len(times) - after - len(track)
    return np.array(times), FaceTrack(*(np.pad(a, [(before, after)] + [(0, 0)] * (a.ndim - 1)) for a in rows))


def _check_start(source: MediaInfo, start: float, last: float) -> None:
    end = float(last + 1 / source.fps)
    if start >= end:
        raise ConfigError(f"{source.path}: nothing from {start:g} s on, it ends at {end:.2f} s")


def square_pixels(source: MediaInfo) -> np.ndarray:
    """`(3, 3)`: from stored pixels to square ones, between the centres of pixels, which are whole numbers."""
    scale = np.array(square_size((source.width, source.height), source.pixel_aspect)) / (source.width, source.height)
    matrix = np.diag([*scale, 1.0])
    matrix[:2, 2] = 0.5 * scale - 0.5
    return matrix


def borrow(
    speaker: Speaker,
    reader: FrameReader,
    track: FaceTrack,
    transforms: np.ndarray,
    order: np.ndarray,
    moment: float | None = None,
) -> list[dict]:
    """Choose references for each appearance of the face, as far as it is shown: `DubReport.references`.

    moment : seconds of the source; the picture there lends to all of its appearance. ConfigError if it shows no face
    """
    size, part = speaker.model.config.data.size, appearances(track)
    usable = track.valid & ~track.interpolated & np.isin(part, part[order])
    if moment is not None:
        lender = picture_at(reader.times, moment)
        if not usable[lender]:
            raise ConfigError(f"reference at {moment:g} s: no face is found there in what is dubbed; name another time")
        usable[(part == part[lender]) & (np.arange(len(part)) != lender)] = False

    def crop(index: int) -> np.ndarray:
        return warp_crop(reader[index], transforms[index], size)

    listed = []
    for borrowers, index in speaker.borrow(mouth_shape(track.landmarks)[0], track.pose, usable, crop, part):
        shown = borrowers[track.valid[borrowers]]
        listed.append({"first": int(shown[0]), "last": int(shown[-1]), "reference_frame": index})
    return listed


def note_distances(person: Person, speaker: Speaker, listed: list[dict], outline: np.ndarray) -> list[str]:
    """Write into `borrow`'s entries how far the reference's face is from the person's; warn of doubtful ones.

    outline : (n, 68, 2), landmarks of all pictures in crop pixels
    """
    for entry in listed:
        index = entry["reference_frame"]
        (distance,) = person(speaker.lent[index], [(outline[index], np.zeros(3))])
        entry["distance"] = round(float(distance), 3)
    doubtful = [entry for entry in listed if entry["distance"] >= DOUBTFUL]
    return [
        f"pictures {entry['first']} to {entry['last']} of the source may show somebody who looks like the person asked "
        f"for: distance {entry['distance']:.2f}, in doubt from {DOUBTFUL} on"
        for entry in doubtful
    ]


def smooth_runs(points: np.ndarray, track: FaceTrack, sigma: float) -> np.ndarray:
    """Smooth `(n, k, 2)` points in time, within runs of valid frames alone; sigma in frames."""
    from scipy.ndimage import gaussian_filter1d

    points = points.copy()
    for first, last in valid_runs(track.valid, track.shot):
        points[first:last] = gaussian_filter1d(points[first:last], sigma, axis=0, mode="nearest")
    return points
