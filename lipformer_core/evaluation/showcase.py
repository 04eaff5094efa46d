"""Pictures that explain a trained model: one face under several sounds, and what the softmax does to the codes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lipformer_core import checkpoint
from lipformer_core.data.prepared.clips import Clip, PreparedCorpus
from lipformer_core.model.autoencoder import to_images
from lipformer_core.model.lipformer import LipFormer

from .cases import Puppet, exchange_partner

FROZEN = ("encoder", "upper_codebook", "bottom_codebook")


def open_and_closed(clip: Clip, count: int = 2) -> NDArray[np.int64]:
    """`count` valid frames from the most open mouth to the most closed one."""
    valid = np.flatnonzero(clip.valid)
    order = valid[np.argsort(-np.asarray(clip.opening)[valid], kind="stable")]
    return order[np.linspace(0, len(order) - 1, count).round().astype(int)]


def under_sounds(model: LipFormer, clip: Clip, driver: Clip, frames: Sequence[int]) -> dict[str, NDArray[np.uint8]]:
    """The same frames under own sound, another clip's and none: label to crops (n, S, S, 3), truth first.

    Beyond the driver's end its sound is silence.
    """
    puppet = Puppet(model, clip, next(model.parameters()).device)
    frames = np.asarray(frames)
    truth = clip.frames(frames)
    seen, own = puppet.look(truth, frames), puppet.sound(clip, frames)
    return {
        "truth": truth,
        "reconstruction": puppet.rows(truth, frames, seen, own)["ceiling"],
        "generated, own audio": puppet.say(seen, own),
        "generated, other's audio": puppet.say(seen, puppet.sound(driver, frames)),
        "generated, silence": puppet.say(seen, puppet.silence(len(frames))),
    }


def overview(model: LipFormer, corpus: PreparedCorpus, people: int = 4, split: str = "test") -> dict[str, list]:
    """The project's picture: `under_sounds` of several people, two frames each, side by side."""
    infos = corpus.clips(split, stills=False)
    persons = [info.person for info in infos]
    rows: dict[str, list] = {}
    for position in range(min(people, len(infos))):
        clip = corpus.open(infos[position].clip_id)
        partner = exchange_partner(position, persons)
        driver = clip if partner is None else corpus.open(infos[partner].clip_id)
        for label, images in under_sounds(model, clip, driver, open_and_closed(clip)).items():
            rows.setdefault(label, []).extend(images)
    return rows


@torch.no_grad()
def soft_codes(
    model: LipFormer, clip: Clip, frames: Sequence[int], taus: Sequence[float]
) -> tuple[dict[str, NDArray[np.uint8]], dict[float, float]]:
    """Decode the softmax at several temperatures instead of the arg-max: what training's gradient sees.

    Returns (label to crops (n, S, S, 3), truth and what is generated first; tau to the mean largest weight over the
    tokens).
    """
    device = next(model.parameters()).device
    puppet = Puppet(model, clip, device)
    truth = clip.frames(frames)
    sound = puppet.sound(clip, np.asarray(frames))
    seen = puppet.look(truth, frames)
    warped, condition = model.hear(seen, puppet.windows(sound))
    logits, _ = model.predict(warped, condition)
    rows = {"truth": truth, "arg-max": puppet.say(seen, sound)}
    peaks = {}
    for tau in taus:
        weights = (logits / tau).softmax(-1)
        rows[f"softmax, tau {tau:g}"] = to_images(model.decode(seen.upper, weights @ model.codes, warped))
        peaks[tau] = float(weights.amax(-1).mean())
    return rows, peaks


def frozen_parts(run: Path | str) -> dict[str, bool]:
    """Whether each part of stage 1 is bit-identical after stage 2; the decoder is fine-tuned, the rest is frozen."""
    before, after = checkpoint.load_codebook(run), checkpoint.load_lipformer(run, device="cpu").autoencoder
    parts = (*FROZEN, "decoder")
    return {p: checkpoint.fingerprint(getattr(before, p)) == checkpoint.fingerprint(getattr(after, p)) for p in parts}
