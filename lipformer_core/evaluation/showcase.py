"""Pictures that explain a trained model: one face under several sounds, and what the softmax does to the codes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lipformer_core import checkpoint
from lipformer_core.data.media.writer import VideoWriter
from lipformer_core.data.prepared.clips import Clip, PreparedCorpus
from lipformer_core.dubbing.report import COMMENT
from lipformer_core.model.autoencoder import to_images
from lipformer_core.model.lipformer import LipFormer, lip_codes
from lipformer_core.timing import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME

from .cases import Puppet, exchange_partner

BATCH, PEOPLE = 16, 5  # frames at once; faces of the grid
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
    """A picture of a run: `under_sounds` of several people, two frames each, side by side."""
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


def exchange(model: LipFormer, clips: Sequence[Clip]) -> tuple[NDArray, NDArray, NDArray]:
    """Every clip's face under every clip's sound, as `figures.results.exchange_grid` takes them.

    A face is the frame whose mouth is half open; a sound that of the moment when its speaker's mouth is widest open,
    for every other speaker most closed.
    """
    own = [open_and_closed(clip, 3)[1] for clip in clips]
    moments = [open_and_closed(clip)[number % 2] for number, clip in enumerate(clips)]
    faces, speakers = (np.concatenate([c.frames([i]) for c, i in zip(clips, at, strict=True)]) for at in (own, moments))
    generated = []
    for clip, frame, face in zip(clips, own, faces, strict=True):
        puppet = Puppet(model, clip, next(model.parameters()).device)
        seen = puppet.look(face[None], [frame])
        sounds = (puppet.sound(driver, [moment]) for driver, moment in zip(clips, moments, strict=True))
        generated.append(np.concatenate([puppet.say(seen, sound) for sound in sounds]))
    return faces, speakers, np.stack(generated)


def film(model: LipFormer, clip: Clip, driver: Clip, path: Path, frames: int = 3 * FPS) -> None:
    """Write a short video: the clip as filmed beside the same frames under the driver's sound, which is heard."""
    count = min(frames, len(clip.valid), len(driver.valid))
    shown = np.flatnonzero(clip.valid[:count])
    puppet, sound = Puppet(model, clip, next(model.parameters()).device), None
    if len(driver.sound):
        sound = driver.sound[: count * SAMPLES_PER_FRAME] / np.float32(2**15), SAMPLE_RATE
    size = puppet.model.config.data.size
    with VideoWriter(path, 2 * size, size, FPS, sound, metadata={"comment": COMMENT}, crf=23) as writer:
        for part in np.split(np.arange(count), range(BATCH, count, BATCH)):
            pictures = np.tile(clip.frames(part), (1, 1, 2, 1))
            use = np.isin(part, shown)
            if use.any():
                seen = puppet.look(pictures[use, :, :size], part[use])
                pictures[use, :, size:] = puppet.say(seen, puppet.sound(driver, part[use]))
            for picture in pictures:
                writer.write(picture)


def illustrate(model: LipFormer, clips: Sequence[Clip], out: Path) -> None:
    """The grid of exchanged sound and two short videos of the first clip, under its own and the next one's sound."""
    from ..figures.results import exchange_grid

    first: dict[str, Clip] = {}
    for clip in clips:
        first.setdefault(clip.info.person, clip)
    people = list(first.values())[:PEOPLE]
    out.mkdir(parents=True, exist_ok=True)
    exchange_grid(*exchange(model, people)).savefig(out / "exchange.png", dpi=150)
    film(model, people[0], people[0], out / "film_own_sound.mp4")
    if len(people) > 1:
        film(model, people[0], people[1], out / "film_exchanged_sound.mp4")


@torch.no_grad()
def soft_codes(
    model: LipFormer, clip: Clip, frames: Sequence[int], taus: Sequence[float]
) -> tuple[dict[str, NDArray[np.uint8]], dict[float, float]]:
    """Decode the likeliest codes, and their means by the softmax at several temperatures.

    Codes alone, without what `lips.keep_reference` adds. Returns (label to crops (n, S, S, 3), truth first; tau to the
    mean largest weight over the tokens).
    """
    device = next(model.parameters()).device
    puppet = Puppet(model, clip, device)
    truth = clip.frames(frames)
    seen = puppet.look(truth, frames)
    warped, condition = model.hear(seen, puppet.windows(puppet.sound(clip, np.asarray(frames))))
    logits, _ = model.predict(warped, condition)
    likeliest = lip_codes(logits, model.codes, None)
    rows, peaks = {"truth": truth, "arg-max": to_images(model.decode(seen.upper, likeliest, warped))}, {}
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
