"""The README's first picture: a portrait and drawn persons, dubbed by the pretrained weights.

`python -m papermill_runs.film_strip [OUT]` writes OUT (notebooks/figures/film_strip.jpg), one row a face, frames in
order of time. The portrait is scikit-image's `astronaut` (Eileen Collins, NASA, public domain), the speech one of the
recordings that the package moonshine-voice carries.
"""

import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.data import astronaut

import lipformer_core as lf
from lipformer_core.data.faces import open_tracker
from lipformer_core.data.media import iter_frames
from lipformer_core.data.prepared.summary import held_out_person
from lipformer_core.data.synthetic import synthesise_clip
from lipformer_core.data.synthetic.export import write_clip

OUT = Path(__file__).parents[1] / "notebooks/figures/film_strip.jpg"
FRAMES, FIRST, EVERY, SIDE = 8, 30, 4, 256  # of a row: how many, from which on, which ones; pixels
PERSONS = 1  # drawn ones


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
            frames = [frame for number, (_, frame) in enumerate(iter_frames(dubbed)) if number < FIRST + FRAMES * EVERY]
            rows.append(_faces(frames[FIRST::EVERY]))
    Image.fromarray(np.concatenate(rows)).save(out, quality=90)


def _faces(frames: list[np.ndarray]) -> np.ndarray:
    """The square around the largest face of the first frame, cut out of all: (SIDE, n SIDE, 3)."""
    points = open_tracker().detect(frames[0])[0][0]
    middle, half = points.mean(0), 0.75 * np.ptp(points[:, 1])
    left, top = (max(0, round(value - half)) for value in middle)
    right, bottom = (round(value + half) for value in middle)
    cut = [Image.fromarray(frame[top:bottom, left:right]).resize((SIDE, SIDE)) for frame in frames]
    return np.concatenate([np.asarray(picture) for picture in cut], axis=1)


if __name__ == "__main__":
    film_strip(*map(Path, sys.argv[1:2]))
