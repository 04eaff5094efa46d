"""What Adaptive Face Warping is worth: the error of the reference's bottom codes with it over the error without it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lipformer_core.data.faces.alignment import invert, transform_points
from lipformer_core.data.prepared.clips import Clip, PreparedCorpus
from lipformer_core.errors import ConfigError, DataError
from lipformer_core.model.autoencoder import to_images, to_tensor
from lipformer_core.model.lipformer import LipFormer, Reference
from lipformer_core.model.ours.warping import NoWarping
from lipformer_core.model.regions import mouth_tokens
from lipformer_core.progress import tqdm

from .metrics import bootstrap_interval

BINS = (0.0, 5.0, 10.0, 20.0, np.inf)  # degrees
WIDE = 10.0  # degrees, from which on a pose gap is one that the warping is for
PAIRS_PER_CLIP = 24
FEWEST_APART = 4  # frames between target and reference


@dataclass(frozen=True)
class WarpingErrors:
    """One entry a pair of frames, (n,) each: mean squared feature distance to the target's own bottom codes."""

    clip: NDArray[np.int64]
    gap: NDArray[np.float64]  # degrees between the poses, of yaw and pitch together
    plain: NDArray[np.float64]  # the reference's bottom codes as they are, all tokens
    warped: NDArray[np.float64]
    plain_rigid: NDArray[np.float64]  # tokens away from the mouth
    warped_rigid: NDArray[np.float64]

    def ratio(self, low: float, high: float = np.inf, rigid: bool = False) -> tuple[float, float, float]:
        """Error with warping over error without, over pairs with low <= gap < high: (ratio, low, high of its interval).

        The 95 % bootstrap interval is over clips; nan where no pair, or only one clip, has such a gap.
        """
        chosen = (self.gap >= low) & (self.gap < high)
        if not chosen.any():
            return (float("nan"),) * 3
        above, below = (self.warped_rigid, self.plain_rigid) if rigid else (self.warped, self.plain)
        clips = [chosen & (self.clip == number) for number in np.unique(self.clip[chosen])]
        return bootstrap_interval([above[own].sum() for own in clips], [below[own].sum() for own in clips])

    def table(self, rigid: bool = False) -> dict[str, tuple[float, float, float]]:
        """`ratio` of every bin of BINS that has pairs, by a label that also says how many."""
        rows = {}
        for low, high in zip(BINS, BINS[1:], strict=False):
            count = int(((self.gap >= low) & (self.gap < high)).sum())
            label = f"{low:.0f}–{high:.0f}°" if np.isfinite(high) else f"over {low:.0f}°"
            if count:
                rows[f"{label}\n{count} pairs"] = self.ratio(low, high, rigid)
        return rows

    def results(self) -> dict[str, object]:
        """The flat numbers, `warping.error_ratio` (gaps above 10 degrees, all bottom tokens) among them."""
        flat: dict[str, object] = {"warping.pairs": len(self.gap), "warping.wide_pairs": int((self.gap >= WIDE).sum())}
        for key, rigid in (("warping.error_ratio", False), ("warping.error_ratio_rigid", True)):
            why = f"no pair of frames, or only one clip, has a pose gap above {WIDE:.0f} degrees"
            for end, value in zip(("", ".low", ".high"), self.ratio(WIDE, rigid=rigid), strict=True):
                flat |= {key + end: value} if np.isfinite(value) else {key + end: None, f"{key}{end}.why": why}
        return flat


def pose_gap(pose: NDArray, one: NDArray | int, other: NDArray | int) -> NDArray:
    """Degrees between two frames' poses (n, 3), yaw and pitch together; alignment takes out the roll."""
    return np.linalg.norm(np.asarray(pose, float)[one, :2] - np.asarray(pose, float)[other, :2], axis=-1)


def sample_pairs(clip: Clip, count: int, seed: int) -> NDArray[np.int64]:
    """(target, reference) frames of a clip, both valid, a few frames apart: (at most `count`, 2), without repeats."""
    valid = np.flatnonzero(clip.valid)
    targets, references = (x.ravel() for x in np.meshgrid(valid, valid, indexing="ij"))
    apart = np.flatnonzero(np.abs(targets - references) >= FEWEST_APART)
    chosen = np.random.default_rng(seed).permutation(apart)[:count]
    return np.stack([targets[chosen], references[chosen]], axis=1)


@torch.no_grad()
def warping_errors(
    model: LipFormer, corpus: PreparedCorpus, split: str = "test", pairs_per_clip: int = PAIRS_PER_CLIP
) -> WarpingErrors:
    """Measure pairs of frames of every clip of a split, the same pairs at every call.

    raises ConfigError for a model without warping, DataError for a split without clips
    """
    _check(model)
    rigid = _rigid(model)
    rows = []
    for number, info in enumerate(tqdm(corpus.clips(split, stills=False), desc="warp", unit="clip")):
        clip = corpus.open(info.clip_id)
        pairs = sample_pairs(clip, pairs_per_clip, number)
        if not len(pairs):
            continue
        target, reference = (_encode(model, clip, pairs[:, side]) for side in (0, 1))
        warped, _ = _warp(model, clip, pairs[:, 0], target, reference)
        errors = [(x - target.bottom).square().mean(1).cpu().double().numpy() for x in (reference.bottom, warped)]
        gaps = pose_gap(clip.pose, pairs[:, 0], pairs[:, 1])
        columns = [e.mean(axis=(1, 2)) for e in errors] + [e[:, rigid].mean(axis=1) for e in errors]
        rows.append(np.stack([np.full(len(pairs), float(number)), gaps, *columns]))
    if not rows:
        raise DataError(f"{corpus.folder}: no clips in the split {split!r}")
    clips, *values = np.concatenate(rows, axis=1)
    return WarpingErrors(clips.astype(np.int64), *values)


def widest_pair(clip: Clip) -> tuple[int, int]:
    """The (target, reference) frames with the widest pose gap: the reference the more frontal of the two."""
    valid = np.flatnonzero(clip.valid)
    pose = np.asarray(clip.pose, float)[valid, :2]
    gaps = np.linalg.norm(pose[:, None] - pose[None], axis=-1)
    pair = np.unravel_index(gaps.argmax(), gaps.shape)
    turned, frontal = sorted(pair, key=lambda i: -np.linalg.norm(pose[i]))
    return int(valid[turned]), int(valid[frontal])


@torch.no_grad()
def warping_pictures(model: LipFormer, clip: Clip, target: int, reference: int) -> dict[str, NDArray]:
    """What the warping does to one pair, as pictures: uint8 (S, S, 3) by name, and `grid`, (h/2, w, 2) in [-1, 1].

    plain, warped : the target's upper codes over the reference's bottom codes, as they are and warped, decoded
    """
    _check(model)
    own, other = _encode(model, clip, [target]), _encode(model, clip, [reference])
    plain = model.autoencoder.decode(own.upper, other.bottom)
    features, grids = _warp(model, clip, [target], own, other)
    warped = model.autoencoder.decode(own.upper, features)
    pictures = {"plain": to_images(plain)[0], "warped": to_images(warped)[0]}
    grid = grids[0].cpu().numpy()
    truth, lent = clip.frames([target, reference])
    return {"target": truth, "reference": lent, **pictures, "grid": grid}


@torch.no_grad()
def endpoint_errors(
    model: LipFormer, corpus: PreparedCorpus, split: str = "test", pairs_per_clip: int = 2
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distance in crop pixels from where the grid reads to where the surface truly was; and of the identity grid.

    For the synthetic corpus alone, whose dense correspondence is exact. Pairs with wide pose gaps; bottom tokens on
    the head, away from the mouth, and seen in both frames. Returns (warped (n,), identity (n,)), one a token.
    """
    from lipformer_core.data.prepared.summary import synthetic_person
    from lipformer_core.data.synthetic import correspondence

    _check(model)
    settings = corpus.manifest["settings"]
    if settings["corpus"] != "synthetic":
        raise DataError("only the synthetic corpus knows its dense correspondence")
    found: tuple[list, list] = ([], [])
    for number, info in enumerate(tqdm(corpus.clips(split, stills=False), desc="warp", unit="clip")):
        clip = corpus.open(info.clip_id)
        pairs = sample_pairs(clip, 200, number)
        widest = pairs[np.argsort(-pose_gap(clip.pose, pairs[:, 0], pairs[:, 1]), kind="stable")[:pairs_per_clip]]
        for target, reference in widest:
            person, made = synthetic_person(info.person), settings["synthetic"]
            flow, seen = correspondence(made["seed"], person, 0, info.n_frames, made["size"], target, reference)
            for kept, errors in zip(found, _endpoints(model, clip, target, reference, flow, seen), strict=True):
                kept.append(errors)
    return np.concatenate(found[0]), np.concatenate(found[1])


def _endpoints(
    model: LipFormer, clip: Clip, target: int, reference: int, flow: NDArray, seen: NDArray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    size, side = model.config.data.size, model.config.codebook.downsampling
    rows, columns = model.config.token_grid
    own = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1) * side + (side - 1) / 2
    own[..., 1] += size / 2  # crop pixels of the bottom tokens' centres
    own = own[_rigid(model)]
    source = transform_points(invert(clip.transforms[target]), own)
    nearest = np.rint(source).astype(int)
    inside = ((nearest >= 0) & (nearest < len(flow))).all(axis=1)
    own, source, nearest = own[inside], source[inside], nearest[inside]
    moved = flow[nearest[:, 1], nearest[:, 0]] - nearest
    truth = transform_points(clip.transforms[reference], source + moved)
    on_head = (moved != 0).any(axis=1)  # the background stands still to the last digit
    bottom = (truth >= [0, size / 2]).all(axis=1) & (truth < size).all(axis=1)
    use = seen[nearest[:, 1], nearest[:, 0]] & on_head & bottom
    grid = _warp(model, clip, [target], *(_encode(model, clip, [frame]) for frame in (target, reference)))[1][0].cpu()
    read = (grid.double().numpy() + 1) / 2 * [size, size / 2] - 0.5
    read[..., 1] += size / 2
    read = read[_rigid(model)][inside]
    return tuple(np.linalg.norm(x[use] - truth[use], axis=1) for x in (read, own))


def _rigid(model: LipFormer) -> NDArray[np.bool_]:
    """Which bottom tokens lie away from the mouth: (h/2, w)."""
    return ~mouth_tokens(model.config.data.size, model.config.codebook.downsampling).numpy()


def _encode(model: LipFormer, clip: Clip, frames: Sequence[int] | NDArray) -> Reference:
    device = next(model.parameters()).device
    return model.encode_reference(to_tensor(clip.frames(frames)).to(device))


def _warp(
    model: LipFormer, clip: Clip, frames: Sequence[int] | NDArray, target: Reference, reference: Reference
) -> tuple[torch.Tensor, torch.Tensor]:
    """H^_RB and the grid of encoded frames, with the sound that was recorded with the targets."""
    heard = torch.from_numpy(clip.heard(frames, model.config.audio)).to(target.upper)
    return model.warp_to(target.upper, reference, heard)


def _check(model: LipFormer) -> None:
    if isinstance(model.warping, NoWarping):
        raise ConfigError("warping: this model was trained without it, so there is nothing to measure")
