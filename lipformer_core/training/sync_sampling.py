"""What a step of the sync expert sees: a stretch of frames of each of some clips, and the sound of its windows."""

from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.audio.mel import SILENCE
from ..data.prepared.clips import ClipInfo, PreparedCorpus
from ..errors import DataError
from ..model.syncnet import AUDIO_WINDOW, FRAMES, see
from .sampling import LIP_SCALE

MAX_SHIFT = 7  # frames; the windows of one clip in a batch lie 0 to so many apart
BAND_SHIFT = 3  # mel bands; the largest change of a voice's apparent size
COLOUR = 0.3  # strength of colour jitter of a clip's pictures
GEOMETRY = 0.08  # largest shift and change of size of a clip's pictures, share of their width
GAIN = 0.5  # mel units; largest change of a clip's level, and of its balance between low and high
NOISE = 0.1  # mel units; largest deviation of noise on a clip's sound


@dataclass
class Stretches:
    """A stretch of L frames from each of B different clips, decoded once; it holds W = L - FRAMES + 1 windows."""

    pixels: np.ndarray  # (B, L, S/2, S, 3) uint8, bottom halves
    sounds: np.ndarray  # (B, W, AUDIO_WINDOW, 80) log-mel around each window's middle frame
    lips: np.ndarray  # (B, L, 2) float32: opening, and width less the clip's mean width, in units of LIP_SCALE
    pairs: list[tuple[ClipInfo, int]]  # clip and first frame

    def __str__(self) -> str:
        return ", ".join(f"{info.clip_id} from frame {first}" for info, first in self.pairs)


class StretchSampler:
    """Stretches of valid frames of a split, person by person.

    raises DataError for a split without a clip that has so many valid frames in a row
    """

    def __init__(self, corpus: PreparedCorpus, split: str):
        self.corpus, self.length = corpus, FRAMES + MAX_SHIFT
        self.by_person: dict[str, list[ClipInfo]] = {}
        for info in corpus.clips(split, stills=False):
            if any(last - first >= self.length for first, last in info.runs):
                self.by_person.setdefault(info.person, []).append(info)
        if not self.by_person:
            raise DataError(
                f"{corpus.folder}: no clip in the split {split!r} shows a face in {self.length} frames in a row; "
                "prepare longer clips"
            )

    def draw(self, rng: np.random.Generator, count: int) -> Stretches:
        """Stretches of at most `count` different clips: one of every person before a second of anybody."""
        people = [self.by_person[name] for name in rng.permutation(list(self.by_person))]
        rounds = zip_longest(*([clips[i] for i in rng.permutation(len(clips))] for clips in people))
        infos = [info for clips in rounds for info in clips if info is not None][:count]
        return self.read([(info, self._first(rng, info)) for info in infos])

    def _first(self, rng: np.random.Generator, info: ClipInfo) -> int:
        starts = [np.arange(first, last - self.length + 1) for first, last in info.runs]
        return int(rng.choice(np.concatenate(starts)))

    def read(self, pairs: list[tuple[ClipInfo, int]]) -> Stretches:
        """The stretches that begin at (clip, first frame)."""
        pixels, sounds, lips = [], [], []
        for info, first in pairs:
            clip = self.corpus.open(info.clip_id)
            frames = np.arange(first, first + self.length)
            middles = frames[: MAX_SHIFT + 1] + FRAMES // 2
            pixels.append(clip.frames(frames)[:, self.corpus.crop_size // 2 :])
            sounds.append(clip.audio_windows(middles, AUDIO_WINDOW))
            width = clip.width[frames] - clip.width[clip.valid].mean()
            lips.append(np.stack([clip.opening[frames], width], 1) / LIP_SCALE)
        return Stretches(np.stack(pixels), np.stack(sounds), np.stack(lips).astype(np.float32), pairs)


def seen_frames(pixels: np.ndarray) -> Tensor:
    """uint8 bottom halves (B, L, S/2, S, 3) as the expert sees them: float (B, L, 3, 48, 64) in [-1, 1]."""
    bottoms = torch.from_numpy(pixels).flatten(0, 1).permute(0, 3, 1, 2).float() / 127.5 - 1
    return see(bottoms).unflatten(0, pixels.shape[:2])


def augment_pictures(seen: Tensor) -> Tensor:
    """Mirror, shift, resize and tint, all frames of a clip alike: (B, L, 3, h, w) in [-1, 1] to the same."""
    batch, length = seen.shape[:2]
    uniform = lambda *shape: 2 * torch.rand(*shape) - 1  # noqa: E731
    move = torch.zeros(batch, 2, 3)
    size = 1 + GEOMETRY * uniform(batch)
    move[:, 0, 0], move[:, 1, 1] = size * uniform(batch).sign(), size
    move[:, :, 2] = 2 * GEOMETRY * uniform(batch, 2)
    grid = F.affine_grid(move.repeat_interleave(length, 0), list(seen.flatten(0, 1).shape), align_corners=False)
    moved = F.grid_sample(seen.flatten(0, 1), grid, padding_mode="border", align_corners=False)
    gain = 1 + COLOUR * uniform(batch, 1, 1, 1, 1)
    tint = COLOUR * (uniform(batch, 1, 1, 1, 1) + 0.5 * uniform(batch, 1, 3, 1, 1))
    return (moved.unflatten(0, (batch, length)) * gain + tint).clamp(-1, 1)


def soften(seen: Tensor) -> Tensor:
    """Blur half of the clips a little, all frames alike: generated faces are soft, which must say nothing about sync.

    seen : (B, L, 3, h, w) to the same
    """
    frames = seen.flatten(0, 1)
    for _ in range(2):
        frames = F.avg_pool2d(F.pad(frames, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    share = (2 * torch.rand(len(seen), 1, 1, 1, 1) - 1).clamp(min=0)
    return seen + share * (frames.view_as(seen) - seen)


def augment_sounds(sounds: Tensor) -> Tensor:
    """Another level, balance of low and high, size of the voice and room, all windows of a clip alike.

    sounds : (B, W, window, 80) log-mel; the floor stays at -1
    """
    batch, bands = len(sounds), sounds.shape[-1]
    uniform = lambda: 2 * torch.rand(batch, 1, 1, 1) - 1  # noqa: E731
    change = GAIN * (uniform() + uniform() * torch.linspace(-1, 1, bands))
    moved = torch.arange(bands) + torch.randint(-BAND_SHIFT, BAND_SHIFT + 1, (batch, 1))  # (B, 80)
    moved = moved.clamp(0, bands - 1)[:, None, None].expand_as(sounds)
    change = change + NOISE * torch.rand(batch, 1, 1, 1) * torch.randn_like(sounds)
    return (sounds.gather(-1, moved) + change).clamp(min=SILENCE)
