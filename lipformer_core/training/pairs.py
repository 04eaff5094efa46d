"""What a step of stage 2 sees: targets, references and sound, from codes that were computed once."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from .. import checkpoint
from ..data.prepared.clips import Clip, ClipInfo, PreparedCorpus
from ..data.prepared.references import draw_nearest, draw_reference, draw_twin
from ..errors import DataError
from ..model.lipformer import LipFormer
from ..model.syncnet import AUDIO_WINDOW
from ..model.wav2lip import Wav2Lip
from ..timing import N_MELS
from .cache import cache_codes
from .looks import Looks, clip_looks
from .sampling import LIP_SCALE, FrameSampler, Key, sample_rng

CLOSED = 0.03  # inter-ocular distances: lips that touch, give or take the landmarks' error
SILENT = 0.5  # share of the samples with closed lips that are silent (stage2.silence)
WITHOUT_SPEECH = 0.3  # share without the speech encoder's features, so that the model works where it is absent


@dataclass
class PairBatch:
    """One step's material. Shapes: codes (B, h/2, w) int64; audio (B, window, columns); points (B, 68, 2) pixels."""

    target_upper: Tensor | None  # as all codes, None where none are cached
    target_bottom: Tensor | None
    pose_upper: Tensor | None  # what the warping sees of the target: its own upper half, or a pose twin's
    reference_upper: Tensor | None
    reference_bottom: Tensor | None
    audio: Tensor
    target_points: Tensor
    reference_points: Tensor
    lips: Tensor  # (B, 2) opening, and width less the clip's mean width, in units of LIP_SCALE
    frames: list  # (ClipInfo, target frame)
    lenders: list  # (ClipInfo, reference frame)
    looks: Looks  # how the target frames look in this batch
    window_sounds: Tensor  # (runs, AUDIO_WINDOW, 80): the sound of each run of consecutive targets
    image: Tensor | None = None  # (B, 3, S, S) in [-1, 1], the targets, where a phase looks at them
    lent: Tensor | None = None  # the references, likewise


Material = tuple[PairBatch, tuple[Tensor | None, Tensor | None]]  # and the pixels of targets and references


class PairSampler:
    """Draws targets with references and sound, and cached codes of them.

    Only the training split is augmented. Other splits ask what dubbing asks: frames as filmed, the frame's own upper
    half before the warping, and the sound that was recorded with it. Pose twins and silence over closed lips are
    lessons, not questions: a twin's pose is some degrees off, an error that no model can mend, and silence is never
    what was heard there; both would add to the score's noise what says nothing about the dubbed video.
    """

    def __init__(
        self,
        model: LipFormer | Wav2Lip,
        corpus: PreparedCorpus,
        split: str,
        folder: Path | None,
        accelerator: Accelerator | None = None,
        progress: bool = False,
    ):
        """folder : where codes are cached; None, for the baseline: there are none, nor lessons but the looks."""
        self.config, self.corpus, self.cache = model.config, corpus, None
        self.trains = split == "train"
        stage2, lessons = self.config.stage2, self.trains and folder is not None
        self.looks = stage2.looks if self.trains else 1
        self.pose_twins, self.silence = stage2.pose_twins and lessons, stage2.silence and lessons
        self.frames = FrameSampler(corpus, split, stills=False)
        if folder is not None:
            key = f"{corpus.hash} {checkpoint.fingerprint(model.autoencoder.encoder)}"
            self.cache = cache_codes(model.autoencoder, corpus, split, folder, key, self.looks, accelerator, progress)

    def draw(self, key: Key, count: int, first: int = 0, run: int = 1) -> PairBatch:
        """Samples `first` to `first + count` of a key; the reference is another frame of the same clip.

        run : targets come as so many consecutive frames of a clip in one look and with one reference
        raises DataError for a clip that shows the face in fewer frames in a row
        """
        anchors = self.frames.draw(key, count // run, first // run)
        pairs, lenders, codes, points, audio, lips, looks, heard = [], [], [], [], [], [], [], []
        for sample, (info, anchor) in enumerate(anchors, first // run):
            rng, clip = sample_rng(key, sample, use=1), self.corpus.open(info.clip_id)
            look = int(rng.integers(self.looks))
            reference = draw_lender(rng, clip, anchor, self.config.lips.reference)
            start = run_around(info, anchor, run)
            heard.append(clip.audio_windows([start + run // 2], AUDIO_WINDOW)[0])
            for target in range(start, start + run):
                twin = target
                if self.pose_twins:
                    twin = draw_twin(rng, clip.pose, clip.valid, target)
                pairs.append((info, target))
                lenders.append((info, reference))
                looks.append(look)
                if self.cache is not None:
                    codes.append([self.cache.read(info.clip_id, frame, look) for frame in (target, reference, twin)])
                points.append(clip.landmarks[[target, reference]])
                audio.append(self._sound(clip, target, rng))
                width = clip.width[target] - clip.width[clip.valid].mean()
                lips.append([clip.opening[target] / LIP_SCALE, width / LIP_SCALE])
        indices = [None] * 5
        if self.cache is not None:  # (B, 3, 2, h/2, w)
            target, reference, twin = torch.from_numpy(np.asarray(codes).astype(np.int64)).unbind(1)
            indices = [*target.unbind(1), twin[:, 0], *reference.unbind(1)]
        seen = clip_looks([info.clip_id for info, _ in pairs], looks, self.config.stage1)
        both = seen.points(torch.from_numpy(np.stack(points)).float().flatten(1, 2), self.config.data.size)
        target_points, reference_points = both.unflatten(1, (2, -1)).unbind(1)
        return PairBatch(
            *indices,
            torch.from_numpy(np.stack(audio)),
            target_points,
            reference_points,
            torch.tensor(np.asarray(lips, np.float32)),
            pairs,
            lenders,
            seen,
            torch.from_numpy(np.stack(heard)),
        )

    def pixels(self, batch: PairBatch, generated: bool) -> tuple[Tensor | None, Tensor | None]:
        """What `show` needs: the targets' where faces are `generated`; by our design, or without codes, all frames'."""
        ours = self.config.lips.design == "ours" or self.cache is None
        frames = ((batch.frames, ours or generated), (batch.lenders, ours))
        return tuple(self.frames.material(which) if wanted else None for which, wanted in frames)

    def show(
        self, batch: PairBatch, pixels: tuple[Tensor | None, Tensor | None], device: torch.device | str = "cpu"
    ) -> PairBatch:
        """The batch on the device, with its pictures in its looks; in training `without_speech` in some samples."""
        values = [v.to(device) if isinstance(v, Tensor) else v for v in vars(batch).values()]
        shown = PairBatch(*values)
        if self.trains and self.config.audio.speech_encoder != "none":
            shown.audio = without_speech(shown.audio)
        shown.image, shown.lent = (None if p is None else self._pictures(p, batch.looks, device) for p in pixels)
        return shown

    def _pictures(self, pixels: Tensor, looks: Looks, device: torch.device | str) -> Tensor:
        images = looks.images(self.frames.pictures(pixels, torch.device(device)))
        return images.contiguous(memory_format=torch.channels_last)

    def _sound(self, clip: Clip, target: int, rng: np.random.Generator) -> np.ndarray:
        """The sound (window, columns) around a frame; in some samples silence, where the lips are closed anyway."""
        audio = self.config.audio
        if self.silence and clip.opening[target] <= CLOSED and rng.random() < SILENT:
            return clip.silence(audio)
        return clip.heard([target], audio, needed=True)[0]


def draw_lender(rng: np.random.Generator, clip: Clip, target: int, policy: str) -> int:
    """The reference of a target frame, as the policy (`lips.reference`) may choose it."""
    if policy == "nearest":
        return draw_nearest(rng, clip.pose, clip.valid, target)
    return draw_reference(rng, clip.pose[:, 0], clip.valid, target, clip.opening)


def run_around(info: ClipInfo, anchor: int, length: int) -> int:
    """First of `length` consecutive valid frames of which `anchor` is one, in the middle where it can be."""
    first, last = next(run for run in info.runs if run[0] <= anchor < run[1])
    if last - first < length:
        raise DataError(
            f"{info.clip_id}: frames {first} to {last - 1} are fewer than the {length} in a row that are needed"
        )
    return min(max(anchor - length // 2, first), last - length)


def without_speech(audio: Tensor, share: float = WITHOUT_SPEECH) -> Tensor:
    """Sound (B, window, 80 + features) with zeros for the features, as where the encoder is absent, in a share of B."""
    left_out = torch.rand(len(audio), 1, 1, device=audio.device) < share
    return torch.cat([audio[..., :N_MELS], audio[..., N_MELS:].masked_fill(left_out, 0.0)], -1)
