"""The README's first picture: a portrait and synthetic persons, dubbed by the pretrained weights.

`python -m papermill_runs.film_strip [OUT]` writes OUT (notebooks/figures/film_strip.jpg), one row a face: the source,
then frames in order of time, each where the lips turn from opening to closing or back. The portrait is scikit-image's
`astronaut` (Eileen Collins, NASA, public domain), the speech one of the recordings that the package moonshine-voice
carries.
"""

import sys
import tempfile
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.signal import find_peaks, peak_prominences
from skimage.data import astronaut

import lipformer_core as lf
from lipformer_core.data.faces import open_tracker
from lipformer_core.data.faces.alignment import mouth_opening
from lipformer_core.data.media import iter_frames
from lipformer_core.data.prepared.example import write_clip
from lipformer_core.data.prepared.summary import held_out_person
from lipformer_core.data.synthetic import synthesise_clip

OUT = Path(__file__).parents[1] / "notebooks/figures/film_strip.jpg"
FRAMES, UNTIL = 7, 75  # of a row: how many, of the first so many
SIDE, GAP = 256, 16  # pixels of a picture, and between the source and the others
PERSONS = 1  # synthetic ones


def film_strip(out: Path = OUT) -> None:
    """Dub, cut the faces out, and write the picture."""
    model = lf.load(device="cpu")
    speech = Path(find_spec("moonshine_voice").origin).parent / "assets/beckett.wav"
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        portrait = Path(folder, "portrait.png")
        Image.fromarray(astronaut()).save(portrait)
        faces: list[tuple[Path, Path | None]] = [(portrait, None)]
        for number in range(PERSONS):
            person = held_out_person(model.config.data, number)
            files = write_clip(synthesise_clip(model.config.data.synthetic.seed, person, 0, 75, 512), Path(folder))
            faces.append((files.video, files.landmarks))
        for face, landmarks in faces:
            dubbed = Path(folder, f"{face.stem}_dubbed.mp4")
            lf.dub(model, face, speech, dubbed, landmarks=landmarks, progress=False)
            frames = [frame for _, frame in islice(iter_frames(dubbed), UNTIL)]
            rows.append(_faces(next(iter_frames(face))[1], frames))
    Image.fromarray(np.concatenate(rows)).save(out, quality=90)


def _faces(source: np.ndarray, frames: list[np.ndarray]) -> np.ndarray:
    """The square around the source's largest face, cut out of it and of some frames: (SIDE, about 8 SIDE, 3)."""
    tracker = open_tracker()
    points = tracker.detect(source)[0][0]
    middle, half = points.mean(0), 0.75 * np.ptp(points[:, 1])
    left, top = (max(0, round(value - half)) for value in middle)
    right, bottom = (round(value + half) for value in middle)
    opening = mouth_opening(np.stack([tracker.detect(frame)[0][0] for frame in frames]))
    shown = [source] + [frames[index] for index in turns(opening, FRAMES)]
    cut = [np.asarray(Image.fromarray(frame[top:bottom, left:right]).resize((SIDE, SIDE))) for frame in shown]
    return np.concatenate([cut[0], np.full((SIDE, GAP, 3), 255, np.uint8), *cut[1:]], axis=1)


def turns(opening: np.ndarray, count: int) -> list[int]:
    """The `count` frames where an opening (n,) turns most, in order of time; where it turns seldom, others between."""
    highest, lowest = (find_peaks(sign * opening, prominence=0)[0] for sign in (1, -1))
    places = np.concatenate([highest, lowest])
    far = np.concatenate([peak_prominences(s * opening, at)[0] for s, at in ((1, highest), (-1, lowest))])
    chosen = places[np.argsort(-far, kind="stable")][:count]
    spare = np.setdiff1d(np.linspace(0, len(opening) - 1, 2 * count).round().astype(int), chosen)
    return sorted(map(int, [*chosen, *spare[: count - len(chosen)]]))


if __name__ == "__main__":
    film_strip(*map(Path, sys.argv[1:2]))
