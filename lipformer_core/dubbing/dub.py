"""Make the person in a video say what a sound track says: two passes over the video, neither holding it in memory.

Pass 1 finds the face in every picture and keeps landmarks alone. Pass 2 walks along the OUTPUT's time line, fetches the
source picture that is due, generates the lower face from the sound around that moment, and puts it back (`frames`).
"""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import closing
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import __version__, provenance
from ..checkpoint import fingerprint
from ..data.audio import SILENCE, band_means
from ..data.audio.speech import sound_rows, why_absent
from ..data.faces import Tracker
from ..data.faces.alignment import TRANSFORM_SIGMA, crop_transforms, transform_points
from ..data.faces.recognition import Person
from ..data.faces.tracking import appearances, load_track
from ..data.media import Damage, FrameReader, VideoWriter, frames_held, probe, read_audio
from ..data.prepared.references import LARGE_YAW
from ..errors import ConfigError, NoAudioStream, NoVideoStream
from ..files import check_outputs
from ..model.precision import has_bfloat16
from ..speaker import Speaker
from ..timing import FPS, N_MELS, SAMPLE_RATE
from .covered import CoverCheck
from .frames import Frames, generating
from .report import (
    COMMENT,
    DubReport,
    cover_warnings,
    frame_statuses,
    quality_warnings,
    size_warnings,
    status_ranges,
    true_ranges,
)
from .source_face import borrow, follow, note_distances, open_trackers, parse_face, smooth_runs, square_pixels
from .timeline import POLICIES, Clock, Told, checked_stretch, output_order, told
from .unfinished import STRETCH, Unfinished

if TYPE_CHECKING:
    from ..model.lipformer import LipFormer

STEP = 16  # pictures generated at the same time, on a CPU in two threads; fewer where they are large
JAW_SIGMA_S = 3 / FPS  # smoothing of the mask's outline
HEARING, TRACKING = 0.03, 0.2  # shares of the time that the sound and pass 1 take, for the progress bar


def dub(
    model: LipFormer,
    video: str | os.PathLike,
    audio: str | os.PathLike,
    out: str | os.PathLike,
    *,
    face: str | int | os.PathLike = "largest",
    policy: str = "pingpong",
    start: float = 0.0,
    end: float | None = None,
    reference: float | None = None,
    landmarks: str | os.PathLike | None = None,
    report: str | os.PathLike | None = None,
    progress: bool | Told = True,
    tracker: Tracker | None = None,
    crf: int = 17,
    mark: bool = False,
    sway: bool = False,
) -> DubReport:
    """Dub a video, or a portrait, with a sound track.

    Size and background stay the source's, and so does the frame rate from 24 to 60 frames/s: below, it becomes a
    multiple, above, a part. The sound keeps its own rate and channels; the result lasts as long as the sound, within
    one frame. What cannot be decoded is skipped, and the report says so. `out` appears only when it is complete. A call
    that was stopped goes on if it is repeated: finished stretches lie in a hidden folder beside `out` (`unfinished`).

    Args:
        model: from `lipformer_core.load`.
        video: a video of any format and rate, or a picture (which counts as a still at 25 frames/s).
        audio: any file with a sound track.
        out: the result, `.mp4`, `.mov` or `.mkv`.
        face: `largest`, an index from 0 counted from the image's left, or a picture of the person (of several faces in
            it the largest): who is followed then is recognised, in every shot and again and again within it, and what
            does not show them passes through. People who look alike can be taken for each other; the report says how
            far each appearance is from the picture.
        policy: where the sound is longer than the video: play it back and forth (`pingpong`), repeat it (`loop`),
            `cut` the sound, or raise an `error`.
        start, end: seconds of the video between which it is dubbed; the result holds no more of it.
        reference: seconds of the video; the picture there lends the mouth's texture. Chosen by default.
        landmarks: `.npz` with `landmarks` (n, 68, 2) of each source picture, in its stored pixels, and optionally
            `pose` and `valid`, in place of a tracker.
        report: where to write the report, JSON.
        progress: show one bar; or a function that is told the share that is done, from 0 to 1, and may raise to stop.
        tracker: an open landmark network; `source_face.open_trackers()` by default.
        crf: quality of the written video, from 1 to 51; 0: lossless, in RGB, which few players show.
        mark: write "AI-generated" into the picture's corner.
        sway: move a portrait gently, as before a camera that is held by hand.

    Raises:
        NoVideoStream, NoAudioStream, UnreadableMedia: an input that cannot be used.
        OutputError, MediaError: `out` or `report` cannot be written, or would replace an input or each other, or
            another process is making the same.
        AudioTooLong: under the policy `error`.
        NoFaceFound: no frame shows the face, or the picture of the person none.
        ConfigError: an unknown policy; a stretch outside the video; no face in a picture where the reference should be;
            `sway` of a video.
        WeightsMissing: no landmark network is present and no `landmarks` were given, or no recognition network where
            `face` is a picture.
    """
    started = time.perf_counter()
    clock, speaker = Clock(), Speaker(model)
    video, audio, out = Path(video), Path(audio), Path(out)
    if policy not in POLICIES:
        raise ConfigError(f"policy is {policy!r}; choose one of {', '.join(POLICIES)}")
    start, end = checked_stretch(start, end)
    face = parse_face(face)
    shown = face if isinstance(face, Path) else None
    if shown is not None and landmarks is not None:
        raise ConfigError(f"face {shown}: who {landmarks} follow is decided there; give one of them")
    outputs, inputs = (
        [Path(path) for path in paths if path is not None]
        for paths in ((out, report), (video, audio, landmarks, shown))
    )
    check_outputs(outputs, inputs)
    if landmarks is not None:
        load_track(landmarks)
    source, sound = probe(video), probe(audio)
    if not source.has_video:
        raise NoVideoStream(f"{video}: no pictures inside that can be decoded; give a video or a portrait")
    if sway and not source.is_image:
        raise ConfigError(f"{video}: a video moves by itself; sway is for a portrait")
    if not sound.has_audio:
        raise NoAudioStream(f"{audio}: no sound inside; give a file with an audio track")
    person = None
    if shown is not None:
        tracker = tracker or open_trackers()
        person = Person(shown, tracker)
    weights = fingerprint(model)
    made_by = {"version": __version__, "weights": weights[:12], "at": f"{datetime.now(UTC):%Y-%m-%dT%H:%MZ}"}
    comment = "{} LipFormer {version}, weights {weights}, {at}.".format(COMMENT, **made_by)
    form = (source.width, source.height, source.result_fps)
    quality = {"crf": crf, "pixel_aspect": source.pixel_aspect}
    # Opened first, though written last: a target that cannot be written is better known before the work.
    writer = VideoWriter(out, *form, audio, metadata={"comment": comment}, **quality)

    with told(progress, "dubbing") as tell:
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
        writer.copy_sound = heard == Damage()
        audio_s = len(samples) / SAMPLE_RATE
        del samples
        until = min(start + audio_s + 1.0, np.inf if end is None else end)  # nothing later is shown
        size, heard_as = model.config.data.size, model.config.audio
        mean = band_means(rows) if heard_as.mean_normalise else 0.0
        if rows.shape[1] > N_MELS:
            rows = rows.astype(np.float16)  # as corpora keep the features; they are most of what grows with length
        own_rate, rate = float(source.fps), float(source.result_fps)
        cover = CoverCheck()
        step = STEP // generating(speaker.device)
        if not source.is_image:
            step = int(np.clip(frames_held(source.height, source.width) // 2, 1, step))
        # all that decides about the frames: a call that differs in it takes nothing over
        decides = [provenance.sources("frames"), weights, hashlib.sha256(rows).hexdigest(), audio_s, str(face), policy]
        decides += [start, end, reference, crf, mark, sway, str(speaker.device), str(speaker.dtype)]
        decides += [has_bfloat16(speaker.device.type), type(tracker).__name__]
        decides += [(os.path.abspath(path), os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in inputs]
        with Unfinished(out, decides) as kept:
            tell(HEARING)
            spent = HEARING + TRACKING * (landmarks is None)
            with clock("tracking"):
                found = kept.load_track()
                if found is None:

                    def followed(share: float) -> None:
                        tell(HEARING + (spent - HEARING) * share)

                    found = *follow(source, landmarks, tracker, person or face, (start, until), followed, seen), seen
                    if landmarks is None:
                        kept.save_track(*found)
            times, track, seen = found
            if reference is not None and not 0 <= reference < times[-1] + 1 / own_rate:
                raise ConfigError(f"reference at {reference:g} s: no picture of what is dubbed; name another time")
            order = output_order(times, source, audio_s, policy, start, end)
            sigma = TRANSFORM_SIGMA * own_rate / FPS  # as in training, where a frame lasts 1/25 s
            transforms = crop_transforms(track.landmarks, track.valid, size, sigma, track.shot)
            outline = smooth_runs(transform_points(transforms, track.landmarks), track, JAW_SIGMA_S * own_rate)
            lowest_chin = float(outline[track.valid][:, 6:11, 1].max())
            transforms = transforms @ square_pixels(source)
            stretches = [range(k, min(k + STRETCH, len(order))) for k in range(0, len(order), STRETCH)]
            done = kept.finished
            for number in range(done):
                cover.seen |= kept.load_looks(number)
            with FrameReader(video, times, (source.width, source.height), seekable=not seen.leaps) as reader:
                with clock("reference"):
                    lent = borrow(speaker, reader, track, transforms, order, reference)
                    if person is not None:
                        warnings += note_distances(person, speaker, lent, outline)
                frames = Frames(
                    *(speaker, reader, order, track, transforms, outline, lowest_chin),
                    *(rows, mean, rate, mark, sway, clock),
                )
                parts = (part[k : k + step] for part in stretches[done:] for k in range(0, len(part), step))
                with closing(frames.made(parts)) as made:
                    for number, stretch in enumerate(stretches[done:], done):
                        with VideoWriter(kept.stretch(number), *form, **quality) as coded:
                            for frame in islice(made, len(stretch)):
                                with clock("encoding"):
                                    coded.write(frame.picture)
                                if frame.crop is not None:
                                    cover.look(frame.index, frame.crop)
                                tell(spent + (1 - spent) * (frame.number + 1) / len(order))
                            kept.save_looks(number, cover.of(order[stretch.start : stretch.stop]))
                warnings += size_warnings(source, reader.resized)
            with clock("joining"), writer:
                for number in range(len(stretches)):
                    writer.append(kept.stretch(number))
    covered = true_ranges(cover.covered(appearances(track), own_rate)[order], rate)
    turned = true_ranges((track.valid & (np.abs(track.pose[:, 0]) > LARGE_YAW))[order], rate)
    warnings += cover_warnings(covered)
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
        audio_s=round(audio_s, 3),
        settings={
            "policy": policy,
            "face": face if shown is None else str(shown),
            "start": start,
            "end": end,
            "reference": reference,
        }
        | {"landmarks": None if landmarks is None else str(landmarks), "crf": crf, "mark": mark, "sway": sway},
        reference_frame=lent[0]["reference_frame"],
        references=lent,
        statuses={name: int((statuses == name).sum()) for name in ("generated", "interpolated", "passed through")},
        ranges=status_ranges(statuses, rate),
        covered=covered,
        turned=turned,
        seconds={name: round(spent, 3) for name, spent in {**clock.seconds, "total": total}.items()},
        frames_per_second=round(sum(map(len, stretches[done:])) / total, 2),
        warnings=warnings,
        device=str(speaker.device),
        made_by=made_by,
    )
    if report is not None:
        result.save(report)
    return result
