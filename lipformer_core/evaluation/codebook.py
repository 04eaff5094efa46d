"""How well stage 1 reconstructs people that it never saw, and how much of its two codebooks that takes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lipformer_core.checkpoint import load_codebook
from lipformer_core.data.prepared.clips import PreparedCorpus
from lipformer_core.device import choose_device
from lipformer_core.errors import DataError
from lipformer_core.model.autoencoder import FaceAutoencoder, to_images, to_tensor
from lipformer_core.model.codebook import perplexity, usage
from lipformer_core.progress import tqdm
from lipformer_core.results import write_results

from .metrics import bootstrap_interval, gradient_energy, mouth_boxes, picture_scores

BATCH = 32
SHOWN_FACES = 8
SHOWN_CODES = 3  # principal components of the codes that become red, green and blue


@dataclass(frozen=True)
class CodebookScores:
    """Means over clips of each frame's scores with their 95 % interval; counts of each code over all frames."""

    scores: dict[str, tuple[float, float, float]]  # psnr, ssim, mouth_psnr, … to (mean, low, high)
    counts: dict[str, NDArray[np.int64]]  # "upper", "bottom" to (K,)
    n_clips: int
    n_frames: int

    def results(self) -> dict[str, float | int]:
        """The flat numbers: `codebook.psnr`, `codebook.upper_usage` and so on."""
        flat: dict[str, float | int] = {}
        for name, numbers in self.scores.items():
            flat |= {f"codebook.{name}{end}": x for end, x in zip(("", ".low", ".high"), numbers, strict=True)}
        for half, counted in self.counts.items():
            flat[f"codebook.{half}_usage"] = usage(torch.from_numpy(counted))
            flat[f"codebook.{half}_perplexity"] = perplexity(torch.from_numpy(counted))
        return flat | {"codebook.n_clips": self.n_clips, "codebook.n_frames": self.n_frames}


@torch.no_grad()
def judge_codebook(
    autoencoder: FaceAutoencoder,
    corpus: PreparedCorpus,
    split: str = "test",
    max_clips: int | None = None,
    progress: bool = True,
) -> CodebookScores:
    """Reconstruct every valid frame of a split, or of its first `max_clips` clips.

    raises DataError for a split without clips
    """
    infos = corpus.clips(split)[:max_clips]
    if not infos:
        raise DataError(f"{corpus.folder}: no clips in the split {split!r}")
    device = next(autoencoder.parameters()).device
    counts = {half: np.zeros(autoencoder.config.codebook.size, np.int64) for half in ("upper", "bottom")}
    clip_means, n_frames = [], 0
    for info in tqdm(infos, desc="reconstruct", unit="clip", disable=not progress):
        clip = corpus.open(info.clip_id)
        frames = np.flatnonzero(clip.valid)
        parts = []
        for start in range(0, len(frames), BATCH):
            chosen = frames[start : start + BATCH]
            truth = clip.frames(chosen)
            out = autoencoder(to_tensor(truth).to(device))
            boxes = mouth_boxes(clip.landmarks[chosen], truth.shape[1])
            seen = to_images(out["reconstruction"])
            energies = np.stack([gradient_energy(seen), gradient_energy(truth)], 1)
            parts.append(picture_scores(seen, truth, boxes) | {"energy": energies})
            for half, counted in counts.items():
                counted += np.bincount(out[f"{half}_indices"].cpu().numpy().ravel(), minlength=len(counted))
        energy, true_energy = np.concatenate([p.pop("energy") for p in parts]).mean(0)
        means = {name: np.concatenate([p[name] for p in parts]).mean() for name in parts[0]}
        clip_means.append(means | {"sharpness": energy / true_energy})
        n_frames += len(frames)
    scores = {name: bootstrap_interval([means[name] for means in clip_means]) for name in clip_means[0]}
    return CodebookScores(scores, counts, len(infos), n_frames)


def judge_run(
    run: Path | str | None,
    data: Path | str,
    out: Path | str,
    split: str = "test",
    max_clips: int | None = None,
    device: str | None = None,
    progress: bool = True,
) -> dict[str, object]:
    """Judge the stage 1 of a run on a split: `out`/codebook.json, and codebook.png, true faces over reconstructed ones.

    run : None: the pre-learned codebook that comes with the package; max_clips : the first so many, all if None
    raises CheckpointError, ConfigError, DataError
    """
    from matplotlib.image import imsave

    corpus, out = PreparedCorpus(data), Path(out)
    autoencoder = load_codebook(run).to(choose_device(device))
    if autoencoder.config.data.size != corpus.crop_size:
        size = autoencoder.config.data.size
        raise DataError(f"{data}: crops of {corpus.crop_size} pixels, but the codebook takes {size}")
    out.mkdir(parents=True, exist_ok=True)
    scores = judge_codebook(autoencoder, corpus, split, max_clips, progress)
    results = write_results(out / "codebook.json", scores.results())
    infos = corpus.clips(split)[:max_clips]
    shown = [infos[i] for i in np.linspace(0, len(infos) - 1, min(SHOWN_FACES, len(infos))).astype(int)]
    faces = np.concatenate([corpus.open(info.clip_id).frames([info.valid_frames[0]]) for info in shown])
    imsave(out / "codebook.png", np.concatenate([np.hstack(faces), np.hstack(reconstructions(autoencoder, faces))]))
    return results


@torch.no_grad()
def reconstructions(autoencoder: FaceAutoencoder, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Encode, quantise and decode crops (n, S, S, 3)."""
    device = next(autoencoder.parameters()).device
    return to_images(autoencoder(to_tensor(images).to(device))["reconstruction"])


@torch.no_grad()
def code_maps(autoencoder: FaceAutoencoder, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Which codes stand where in crops (n, S, S, 3): one colour a code, alike where the codes are; the same shape.

    Each codebook has colours of its own, the first three principal components of its codes: equal colours in the
    upper and the bottom half say nothing.
    """
    device = next(autoencoder.parameters()).device
    out = autoencoder(to_tensor(images).to(device))
    halves = []
    for half in ("upper", "bottom"):
        colours = _code_colours(getattr(autoencoder, f"{half}_codebook").weight.detach().cpu().double().numpy())
        halves.append(colours[out[f"{half}_indices"].cpu().numpy()])
    side = autoencoder.config.codebook.downsampling
    return np.concatenate(halves, axis=1).repeat(side, axis=1).repeat(side, axis=2)


def _code_colours(codes: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(K, d) -> (K, 3)."""
    centred = codes - codes.mean(axis=0)
    parts = centred @ np.linalg.svd(centred, full_matrices=False)[2][:SHOWN_CODES].T
    ranks = parts.argsort(axis=0).argsort(axis=0)  # every component uses its whole range
    return (ranks * 255 // max(1, len(codes) - 1)).astype(np.uint8)
