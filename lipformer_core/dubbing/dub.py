"""Make the person in a video say what a sound track says: two passes over the video, neither holding it in memory.

Pass 1 finds the face in every picture and keeps landmarks alone. Pass 2 walks along the OUTPUT's time line, fetches the
source picture that is due, generates the lower face from the sound around that moment, and puts it back.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..data.audio import SILENCE, band_means, mel_windows
from ..data.audio.speech import sound_rows, why_absent
from ..data.faces import Tracker, open_tracker
from ..data.faces.alignment import (
    TRANSFORM_SIGMA,
    crop_transforms,
    mouth_shape,
    transform_points,
    valid_runs,
    warp_crop,
)
from ..data.faces.tracking import FaceTrack, appearances, load_track, track_faces
from ..data.media import (
    Damage,
    FrameReader,
    MediaInfo,
    VideoWriter,
    frame_times,
    frames_held,
    iter_frames,
    probe,
    read_audio,
)
from ..data.media.pictures import square_size
from ..errors import (
    AudioTooLong,
    ConfigError,
    DataError,
    NoAudioStream,
    NoFaceFound,
    NoVideoStream,
)
from ..files import check_outputs
from ..progress import tqdm
from ..timing import FPS, N_MELS, SAMPLE_RATE
from .compositing import lower_face_mask, paste
from .report import COMMENT, DubReport, frame_statuses, quality_warnings, size_warnings, status_ranges

if TYPE_CHECKING:
    from ..model.lipformer import LipFormer
    from ..speaker import Speaker

POLICIES = ("pingpong", "loop", "cut", "error")
CHUNK = 16  # pictures generated at once, fewer where they are large
JAW_SIGMA_S = 3 / FPS  # smoothing of the mask's outline
CLOCK_SLACK = 2e-3  # seconds: containers round presentation times to milliseconds


def dub(
    model: LipFormer,
    video: str | os.PathLike,
    audio: str | os.PathLike,
    out: str | os.PathLike,
    *,
    face: str | int = "largest",
    policy: str = "pingpong",
    landmarks: str | os.PathLike | None = None,
    report: str | os.PathLike | None = None,
    progress: bool = True,
    tracker: Tracker | None = None,
    crf: int = 17,
) -> DubReport:
    """Dub a video, or a portrait, with a sound track.

    Size and background stay the source's, and so does the frame rate from 24 to 60 frames/s: below, it becomes a
    multiple, above, a part. The sound keeps its own rate and channels; the result lasts as long as the sound, within
    one frame. What cannot be decoded is skipped, and the report says so. `out` appears only when it is complete.

    Args:
        model: from `lipformer_core.load`.
        video: a video of any format and rate, or a picture (which counts as a still at 25 frames/s).
        audio: any file with a sound track.
        out: the result, `.mp4`, `.mov` or `.mkv`.
        face: `largest`, or an index from 0 counted from the image's left.
        policy: where the sound is longer than the video: play it back and forth (`pingpong`), repeat it (`loop`),
            `cut` the sound, or raise an `error`.
        landmarks: `.npz` with `landmarks` (n, 68, 2) of each source picture, in its stored pixels, and optionally
            `pose` and `valid`, in place of a tracker.
        report: where to write the report, JSON.
        progress: show progress bars.
        tracker: an open landmark network; `open_tracker()` by default.
        crf: quality of the written video, 0 (lossless) to 51.

    Raises:
        NoVideoStream, NoAudioStream, UnreadableMedia: an input that cannot be used.
        OutputError, MediaError: `out` or `report` cannot be written, or would replace an input or each other.
        AudioTooLong: under the policy `error`.
        NoFaceFound: no frame shows the face.
        ConfigError: an unknown policy.
        WeightsMissing: no landmark network is present and no `landmarks` were given.
    """
    from ..speaker import Speaker

    started = time.perf_counter()
    clock, speaker = _Clock(), Speaker(model)
    video, audio, out = Path(video), Path(audio), Path(out)
    if policy not in POLICIES:
        raise ConfigError(f"policy is {policy!r}; choose one of {', '.join(POLICIES)}")
    outputs, inputs = (
        [Path(path) for path in paths if path is not None] for paths in ((out, report), (video, audio, landmarks))
    )
    check_outputs(outputs, inputs)
    source, sound = probe(video), probe(audio)
    if not source.has_video:
        raise NoVideoStream(f"{video}: no pictures inside that can be decoded; give a video or a portrait")
    if not sound.has_audio:
        raise NoAudioStream(f"{audio}: no sound inside; give a file with an audio track")
    # Opened first, though written last: a target that cannot be written is better known before the work.
    writer = VideoWriter(
        out,
        source.width,
        source.height,
        source.result_fps,
        audio,
        metadata={"comment": COMMENT},
        crf=crf,
        pixel_aspect=source.pixel_aspect,
    )

    warnings = list(source.notes)
    seen, heard = Damage(), Damage()
    with clock("audio"):
        samples = read_audio(audio, damage=heard)
        encoder = model.config.audio.speech_encoder
        rows = sound_rows(samples, encoder, needed=False)
        if encoder != "none" and (why := why_absent()):
            warnings.append(f"heard without the speech encoder, with which lips follow better: {why}")
        if rows[:, :N_MELS].max() == SILENCE:
            warnings.append("the sound is digital silence")
    with clock("tracking"):
        times, track = _track(source, landmarks, tracker, face, len(samples) / SAMPLE_RATE, progress, seen)
    order = output_order(times, source, len(samples) / SAMPLE_RATE, policy)

    size, heard_as = model.config.data.size, model.config.audio
    mean = band_means(rows) if heard_as.mean_normalise else 0.0
    own_rate, rate = float(source.fps), float(source.result_fps)
    sigma = TRANSFORM_SIGMA * own_rate / FPS  # as in training, where a frame lasts 1/25 s
    transforms = crop_transforms(track.landmarks, track.valid, size, sigma, track.shot)
    outline = _smooth_runs(transform_points(transforms, track.landmarks), track, JAW_SIGMA_S * own_rate)
    lowest_chin = float(outline[track.valid][:, 6:11, 1].max())
    transforms = transforms @ _square_pixels(source)
    chunk = CHUNK if source.is_image else min(CHUNK, frames_held(source.height, source.width))
    with FrameReader(video, times, (source.width, source.height), seekable=not seen.leaps) as reader:
        with clock("reference"):
            lent = _borrow(speaker, reader, track, transforms, order)
        with writer, _bar(len(order), "dubbing", progress) as bar:
            for first in range(0, len(order), chunk):
                indices = order[first : first + chunk]
                with clock("decoding"):
                    frames = {i: reader[i] for i in indices}
                shown = [k for k, i in enumerate(indices) if track.valid[i]]
                crops = generated = ()
                if shown:
                    with clock("cropping"):
                        crops = np.stack([warp_crop(frames[i], transforms[i], size) for i in indices[shown]])
                    with clock("model"):
                        moments = (first + np.array(shown)) / rate
                        windows = mel_windows(rows, moments, heard_as.window) - mean
                        generated = speaker.say(speaker.look(crops, indices[shown]), windows)
                new = dict(zip(shown, zip(crops, generated, strict=True), strict=True))
                for k, i in enumerate(indices):
                    picture = frames[i]
                    if k in new:
                        with clock("compositing"):
                            mask = lower_face_mask(size, outline[i], lowest_chin)
                            picture = paste(picture, new[k][1], transforms[i], mask, new[k][0])
                    with clock("encoding"):
                        writer.write(picture)
                del frames, picture  # they may be large, and the next ones come before these names are used again
                bar.update(len(indices))

        warnings += size_warnings(source, reader.resized)
    warnings += quality_warnings(track, transforms, times, source, seen.pictures)
    warnings += dict.fromkeys(seen.warnings(video) + heard.warnings(audio))  # each once, if both are one file
    statuses = frame_statuses(track, order)
    total = time.perf_counter() - started
    result = DubReport(
        video=str(video),
        audio=str(audio),
        out=str(out),
        width=source.width,
        height=source.height,
        fps=rate,
        frames=len(order),
        duration_s=len(order) / rate,
        policy=policy,
        face=face,
        reference_frame=lent[0]["reference_frame"],
        references=lent,
        statuses={name: int((statuses == name).sum()) for name in ("generated", "interpolated", "passed through")},
        ranges=status_ranges(statuses, rate),
        seconds={name: round(spent, 3) for name, spent in {**clock.seconds, "total": total}.items()},
        frames_per_second=round(len(order) / total, 2),
        warnings=warnings,
        device=str(speaker.device),
    )
    if report is not None:
        result.save(report)
    return result


def output_order(times: np.ndarray, source: MediaInfo, audio_s: float, policy: str) -> np.ndarray:
    """Say which source picture each output frame shows.

    Output frame i stands at `i / result_fps` seconds and shows the picture that the source displays at that moment, so
    that a variable rate becomes a constant one. A still picture simply stays.

    Args:
        times: `(n,)` seconds of the source's pictures.
        source: the source's rate, the result's, and whether it is a still picture.
        audio_s: seconds of sound.
        policy: see `dub`.

    Returns:
        `(frames,)` indices into `times`.

    Raises:
        AudioTooLong: the sound outlasts the video by more than a frame and the policy is `error`.
    """
    fps = source.result_fps
    wanted = max(1, round(Fraction(audio_s).limit_denominator(SAMPLE_RATE) * fps))
    end = max(Fraction(float(times[-1])).limit_denominator(90_000) + 1 / source.fps, Fraction(source.pictures_s))
    available = max(1, round(end * fps))
    position = np.arange(wanted)
    if source.is_image:
        position[:] = 0
    elif wanted > available + 1:
        if policy == "error":
            video_s = float(available / fps)
            raise AudioTooLong(f"the sound lasts {audio_s:.2f} s, the video {video_s:.2f} s; use pingpong, loop or cut")
        if policy == "cut":
            position = position[:available]
        elif policy == "loop":
            position %= available
        else:
            period = max(1, 2 * (available - 1))  # the turning points are shown once
            position = np.minimum(position % period, period - position % period)
    position = np.minimum(position, available - 1)
    return np.maximum(np.searchsorted(times, position / float(fps) + CLOCK_SLACK, side="right") - 1, 0)


class _Clock:
    """Adds up the seconds that each stage takes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - begun


def _track(
    source: MediaInfo,
    landmarks: str | os.PathLike | None,
    tracker: Tracker | None,
    face: str | int,
    audio_s: float,
    progress: bool,
    damage: Damage,
) -> tuple[np.ndarray, FaceTrack]:
    """Times of the source's pictures and the face in each of them in square pixels, as far as the sound reaches."""
    if landmarks is not None:
        times, track = frame_times(source.path, damage), load_track(landmarks)
        to_square = _square_pixels(source)[:2]
        track = replace(track, landmarks=transform_points(to_square, track.landmarks))
        if len(track) != len(times):
            raise DataError(
                f"{landmarks}: {len(track)} rows of landmarks for the {len(times)} pictures of {source.path}"
            )
        if not track.valid.any():
            raise NoFaceFound(f"{landmarks}: not a single row is valid")
        return times, track
    tracker = tracker or open_tracker()
    times: list[float] = []

    def pictures() -> Iterator[np.ndarray]:
        with _bar(source.n_frames, "finding the face", progress) as bar:
            for moment, picture in iter_frames(source.path, damage, square=True):
                if moment > audio_s + 1.0:
                    break  # never shown: the output ends with the sound
                times.append(moment)
                bar.update()
                yield picture

    track = track_faces(pictures(), tracker, face)
    return np.array(times), track


def _square_pixels(source: MediaInfo) -> np.ndarray:
    """`(3, 3)`: from stored pixels to square ones, between the centres of pixels, which are whole numbers."""
    scale = np.array(square_size((source.width, source.height), source.pixel_aspect)) / (source.width, source.height)
    matrix = np.diag([*scale, 1.0])
    matrix[:2, 2] = 0.5 * scale - 0.5
    return matrix


def _borrow(
    speaker: Speaker, reader: FrameReader, track: FaceTrack, transforms: np.ndarray, order: np.ndarray
) -> list[dict]:
    """Choose references for each appearance of the face, as far as it is shown: `DubReport.references`."""
    size, part = speaker.model.config.data.size, appearances(track)
    usable = track.valid & ~track.interpolated & np.isin(part, part[order])

    def crop(index: int) -> np.ndarray:
        return warp_crop(reader[index], transforms[index], size)

    listed = []
    for borrowers, lender in speaker.borrow(mouth_shape(track.landmarks)[0], track.pose, usable, crop, part):
        shown = borrowers[track.valid[borrowers]]
        listed.append({"first": int(shown[0]), "last": int(shown[-1]), "reference_frame": lender})
    return listed


def _smooth_runs(points: np.ndarray, track: FaceTrack, sigma: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter1d

    points = points.copy()
    for first, last in valid_runs(track.valid, track.shot):
        points[first:last] = gaussian_filter1d(points[first:last], sigma, axis=0, mode="nearest")
    return points


def _bar(total: int | None, what: str, progress: bool):  # noqa: ANN202
    return tqdm(total=total, desc=what, unit="frame", disable=not progress)
