"""How the files that come with the package were made from what was trained: coefficients, and weights of half the size.

python -c "from papermill_runs.shipped import fit_offsets; fit_offsets('clips/grid_s1')"
python -c "from papermill_runs.shipped import halve; halve('runs/mine', 'lipformer_core/pretrained')"
python -c "from papermill_runs.shipped import renew_hearing; renew_hearing('pretrained', 'runs/anew')"
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

from lipformer_core import checkpoint
from lipformer_core.config import from_dict
from lipformer_core.data.audio.av_offset import (
    BANDS,
    COEFFICIENTS,
    CONTEXT,
    REACH,
    lively,
    offset_scores,
    sound_features,
)
from lipformer_core.data.audio.mel import log_mel
from lipformer_core.data.faces import open_tracker
from lipformer_core.data.faces.alignment import mouth_opening
from lipformer_core.data.faces.tracking import track_faces
from lipformer_core.data.media import read_audio
from lipformer_core.data.media.source_streams import shown_frames
from lipformer_core.data.synthetic import synthesise_clip
from lipformer_core.errors import CheckpointError
from lipformer_core.training.lipformer import Trained

PERSONS, FRAMES, SIZE = 60, 75, 16  # synthetic persons, one clip each, and the side of their pictures
HELD_OUT = 30  # of GRID's speaker 1's clips, the last by name
RIDGE = 300.0
HEARING = ("lipformer.audio_encoder.", "judges.articulation.")  # names of tensors
EXACT_WEIGHT = 0.05  # of a clip that is exactly in step beside a filmed one: real voices teach more, these set the zero

Pair = tuple[np.ndarray, np.ndarray]  # opening (n,), NaN where there is no face; mel (T, 80), frame 4 i at picture i


def halve(run: Path | str, folder: Path | str, decoder: Path | str | None = None) -> None:
    """Copy a run's stages to `folder` with 16-bit floats: half the bytes, to hand on. Loaded, they are 32-bit again.

    decoder : a run whose stage 1 went on from this one and sharpened Dec alone (`train_codebook`): its Dec is taken
    raises CheckpointError for a run without a finished stage, or with values that 16 bits cannot hold; for a `decoder`
        over other codes
    """
    stages = [s for s in ("codebook", "lipformer") if (Path(run) / s / "model.safetensors").is_file()]
    if not stages:
        raise CheckpointError(f"{run}: neither codebook nor lipformer is finished")
    for stage in stages:
        header, tensors = checkpoint.load(Path(run) / stage / "model.safetensors")
        tensors = checkpoint.model_tensors(tensors)
        if decoder is not None:
            tensors = _with_decoder(tensors, decoder)
            header |= {"dec": checkpoint.header_of(decoder, "codebook")}
        small = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
        if beyond := [name for name, tensor in small.items() if not torch.isfinite(tensor).all()]:
            raise CheckpointError(f"{run}/{stage}: {', '.join(beyond)}: beyond what 16 bits hold")
        checkpoint.write(Path(folder) / stage / "model.safetensors", small, header)


def _with_decoder(tensors: dict[str, torch.Tensor], run: Path | str) -> dict[str, torch.Tensor]:
    """A stage's tensors with Dec of another run's stage 1, whose encoder and codes must be the same."""
    theirs = checkpoint.part(checkpoint.load(Path(run) / "codebook" / "model.safetensors")[1], "autoencoder.")
    names = {name: name.rpartition("autoencoder.")[2] for name in tensors if "autoencoder." in name}
    for name, its in names.items():
        if not its.startswith("decoder.") and not torch.equal(tensors[name].float(), theirs[its].float()):
            raise CheckpointError(f"{run}: its decoder is of other codes: {its} differs")
    return tensors | {name: theirs[its] for name, its in names.items() if its.startswith("decoder.")}


def renew_hearing(run: Path | str, folder: Path | str) -> None:
    """Copy a run's finished stage 2 to `folder` with E_aud, and the map that reads lips from it, as before training.

    What an E_aud has learned by heart it does not forget; to train on from (`--from`), where it shall learn anew.
    raises CheckpointError for a run without one
    """
    path = Path("lipformer") / "model.safetensors"
    header, tensors = checkpoint.load(checkpoint.run_folder(run) / path)
    torch.manual_seed(header["seed"])
    fresh = Trained(from_dict(header["config"])).state_dict()
    anew = {name: fresh[name] for name in tensors if name.startswith(HEARING)}
    checkpoint.write(Path(folder) / path, checkpoint.model_tensors(tensors) | anew, header)


def fit_offsets(grid_s1: Path | str, out: Path | str = COEFFICIENTS) -> np.ndarray:
    """Fit `av_offset` on the synthetic corpus and GRID's speaker 1 but for its last 30 clips; write the coefficients.

    grid_s1 : folder with the speaker's videos
    raises WeightsMissing without a landmark network; as `media.iter_frames` and `media.read_audio` for bad files
    """
    videos = sorted(path for path in Path(grid_s1).iterdir() if path.suffix in (".mp4", ".mpg"))
    weights = fit(synthetic_pairs(range(PERSONS)), filmed_pairs(videos[: len(videos) - HELD_OUT]))
    save_file({"weights": weights}, out)
    return weights


def synthetic_pairs(persons: Iterable[int]) -> Iterator[Pair]:
    """Opening and mel of one clip of each synthetic person."""
    for person in persons:
        clip = synthesise_clip(0, person, 0, FRAMES, SIZE)
        yield clip.opening, log_mel(clip.audio)


def filmed_pairs(videos: Iterable[Path]) -> Iterator[Pair]:
    """Opening, NaN where no face is, and mel of filmed clips."""
    tracker = open_tracker()
    for video in videos:
        track = track_faces(shown_frames(video), tracker)
        opening = np.full(len(track), np.nan)
        opening[track.valid] = mouth_opening(track.landmarks[track.valid])
        yield opening, log_mel(read_audio(video))


def fit(exact: Iterable[Pair], filmed: Iterable[Pair]) -> np.ndarray:
    """Fit the regression: (F,) float32 weights.

    exact : clips whose sound and picture are in step; they define what offset 0 is
    filmed : clips that have one offset in common, whichever: it is estimated from `exact` and taken out
    """
    exact, filmed = list(exact), list(filmed)
    weights = _regress(exact, [1.0] * len(exact))
    scores = np.array([offset_scores(opening, mel, weights) for opening, mel in filmed])
    late = int(np.nanmean(scores, axis=0).argmax()) - REACH
    in_step = [(_earlier(opening, late), mel) for opening, mel in filmed]
    return _regress(exact + in_step, [EXACT_WEIGHT] * len(exact) + [1.0] * len(in_step))


def _regress(clips: list[Pair], weights: list[float]) -> np.ndarray:
    size = 4 * CONTEXT * BANDS
    squares, products = RIDGE * np.eye(size), np.zeros(size)
    for (opening, mel), weight in zip(clips, weights, strict=True):
        x, y = sound_features(mel, len(opening)), lively(np.asarray(opening, np.float64))
        known = np.isfinite(y)
        x, y = (x - x.mean(0))[known].astype(np.float64), y[known] / max(float(np.nanstd(y)), 1e-9)
        squares += weight * (x.T @ x)
        products += weight * (x.T @ y)
    return np.linalg.solve(squares, products).astype(np.float32)


def _earlier(series: np.ndarray, frames: int) -> np.ndarray:
    """Series moved to an earlier time by so many frames; NaN fills up."""
    moved = np.full(len(series), np.nan)
    first, last = max(frames, 0), len(series) + min(frames, 0)
    moved[first - frames : last - frames] = series[first:last]
    return moved
