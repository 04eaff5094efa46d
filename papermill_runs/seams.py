"""What a dubbing leaves untouched, and whether its border or a tremble of the face gives it away, on filmed people.

`LIPFORMER_CLIPS=… LIPFORMER_WEIGHTS=… python -m papermill_runs.seams OUT` dubs the first SECONDS of one clip a person,
those of GRID and those right in LIPFORMER_CLIPS, with another's sound (`dub_everything`) and without loss, and prints
a table: pixels changed outside of the mask; the mean step between neighbouring pixels along its border over the
source's; and how the box around the landmarks trembles (`metrics.jitter` of its corners, in thousandths of its height)
beside the source's. The last two are given with 95 % bootstrap intervals over people.
"""

import csv
import os
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

import lipformer_core as lf
from lipformer_core.data.faces import Tracker, open_tracker
from lipformer_core.data.faces.alignment import TRANSFORM_SIGMA, crop_transforms, invert, transform_points
from lipformer_core.data.faces.tracking import FaceTrack, track_faces
from lipformer_core.data.media import iter_frames, probe
from lipformer_core.dubbing.batch import dub_batch
from lipformer_core.dubbing.compositing import lower_face_mask
from lipformer_core.dubbing.dub import JAW_SIGMA_S
from lipformer_core.dubbing.source_face import smooth_runs
from lipformer_core.errors import LipFormerError
from lipformer_core.evaluation.metrics import bootstrap_interval, jitter
from lipformer_core.timing import FPS

from .dub_everything import pairs, write_list

SECONDS = 1.0
FOLDERS = ("clips", "grid")
GROUPS = ("GRID", "others")


def chosen(media: Path) -> list[dict[str, str]]:
    """The lines for `dub_batch`: one clip a person, by MEDIA.csv."""
    with media.open(newline="") as file:
        person = {str(media.parent / row["file"]): row["person"] for row in csv.DictReader(file)}
    lines, known = [], set()
    for line in pairs(media):
        name = person.get(line["video"])
        if Path(line["video"]).parent.name in FOLDERS and name not in known:
            known.add(name)
            lines.append(line | {"end": str(SECONDS), "output": f"{Path(line['video']).stem}.mkv"})
    return lines


def judge(source: Path, result: Path, tracker: Tracker, size: int) -> dict[str, float]:
    """The figures of one dubbing of the beginning of a video at its own rate, written without loss."""
    shown = [picture for _, picture in iter_frames(result)]
    frames = [picture for _, picture in islice(iter_frames(source), len(shown))]
    track, rate = track_faces(iter(frames), tracker), float(probe(source).fps)
    transforms = crop_transforms(track.landmarks, track.valid, size, TRANSFORM_SIGMA * rate / FPS, track.shot)
    outline = smooth_runs(transform_points(transforms, track.landmarks), track, JAW_SIGMA_S * rate)
    chin, changed, steps = outline[track.valid][:, 6:11, 1].max(), 0, []
    for k in np.flatnonzero(track.valid):
        mask = lower_face_mask(size, outline[k], chin)
        alpha = cv2.warpAffine(mask, invert(transforms[k]), frames[k].shape[1::-1], flags=cv2.INTER_LINEAR)
        changed += int((shown[k] != frames[k])[alpha == 0].any(-1).sum())
        border = (alpha > 0.02) & (alpha < 0.98)
        steps.append([_step(picture)[border].mean() for picture in (shown[k], frames[k])])
    made, true = np.mean(steps, axis=0)
    trembles = [_tremble(t) for t in (track_faces(iter(shown), tracker), track)]
    return {
        "frames": len(steps),
        "changed": changed,
        "seam": made / true,
        "box": trembles[0],
        "box of source": trembles[1],
    }


def _step(picture: np.ndarray) -> np.ndarray:
    """Step to the neighbours on the right and below, `(H, W)`, in grey levels."""
    grey = picture.mean(axis=2)
    right, below = np.diff(grey, axis=1, append=grey[:, -1:]), np.diff(grey, axis=0, append=grey[-1:])
    return np.hypot(right, below)


def _tremble(track: FaceTrack) -> float:
    points = track.landmarks[track.valid].astype(float)
    corners = np.concatenate([points.min(1), points.max(1)], axis=1)
    return 1e3 * jitter(corners) / float(np.ptp(points[..., 1], axis=1).mean())


def report(rows: list[dict]) -> Iterator[str]:
    """Markdown lines: one a group of people, and one for the worst of each column."""
    yield "| people | clips | frames | changed outside | step along the border / source's | box trembles | source's |"
    yield "| --- " * 7 + "|"
    for group in GROUPS:
        found = [row for row in rows if row["group"] == group]
        cells = []
        for name in ("seam", "box", "box of source"):
            mean, low, high = bootstrap_interval([row[name] for row in found])
            cells.append(f"{mean:.2f} ({low:.2f}–{high:.2f})")
        sums = (sum(row[name] for row in found) for name in ("frames", "changed"))
        yield f"| {group} | {len(found)} | {' | '.join(map(str, sums))} | {' | '.join(cells)} |"
    seam, box = max(rows, key=lambda r: r["seam"]), max(rows, key=lambda r: r["box"] / r["box of source"])
    yield ""
    times = box["box"] / box["box of source"]
    yield f"Highest step: {seam['seam']:.2f} ({seam['clip']}); box: {times:.2f} times ({box['clip']})."


def main(out: Path) -> None:
    """Dub, judge, and print the table."""
    lines = chosen(Path(os.environ["LIPFORMER_CLIPS"]).parent / "MEDIA.csv")
    model, rows = lf.load(device="cpu"), []
    for line in dub_batch(model, write_list(out, lines), out, crf=0):
        if line["status"] == "failed":
            print(f"{line['video']}: {line['error']}")
            continue
        source = Path(line["video"])
        # A tracker may remember faces from picture to picture, so each clip has its own.
        found = judge(source, out / line["output"], open_tracker(), model.config.data.size)
        rows.append({"clip": source.stem, "group": GROUPS[not source.stem.startswith("grid")]} | found)
    print("\n".join(report(rows)))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except LipFormerError as error:
        sys.exit(f"error: {error}")
