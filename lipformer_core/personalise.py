"""A trained run fine-tuned to one person from ten seconds to a few minutes of video, in minutes on a CPU.

The video is divided by time: its beginning trains, a piece after it chooses the best weights, and its end judges the
model before and after. Both stages go on from the run's finished LipFormer: stage 1 from its encoder, its codebooks as
they are, and the decoder that stage 2 had fine-tuned; stage 2 from its warping, audio encoder and Transformer, which
have to follow the encoder's and the codes' small moves.
"""

import hashlib
import json
import time
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path

from . import checkpoint
from .config import Config
from .data.prepared.clips import PreparedCorpus
from .data.prepared.prepare import prepare
from .data.prepared.quality import Limits
from .data.prepared.shards import SPLITS
from .device import choose_device
from .errors import CheckpointError, ConfigError, DataError, WeightsMissing
from .evaluation.clip_judge import Scorers
from .evaluation.mouth_meter import MouthMeter, train_meter
from .evaluation.protocol import evaluate_model
from .files import write_json
from .model.build import build
from .model.lipformer import LipFormer
from .results import write_results
from .training.lipformer import train_lipformer
from .training.loop import finished
from .training.losses import perceptual_loss

REPORT, ORIGIN = "personalise.json", "origin.json"

# What one person's fine-tuning sets, whatever the run was trained with ...
SETTINGS: dict[str, object] = {
    "stage1.steps": 400, "stage1.prevent_collapse": False,  # the codes stay as they come
    "stage1.mirror": False,  # a person is not symmetric
    "stage1.adversarial_weight": 0.0, "stage2.joint.adversarial_weight": 0.0,  # it would begin from nothing
    "stage2.pose_twins": True,  # one person's upper face tells the mouth
    "stage2.apart.steps": 0, "stage2.cached.steps": 400, "stage2.joint.steps": 200,
    "data.val_persons": (), "data.test_persons": (), "engine.check_every": 50,
}  # fmt: skip
# ... and what it sets to the run's own value, but not to more than this
AT_MOST: dict[str, float] = {
    "stage1.batch": 8, "stage1.lr": 3e-4, "stage2.cached.batch": 32, "stage2.cached.lr": 3e-4,
    "stage2.joint.batch": 8, "stage2.joint.lr": 2e-4,
}  # fmt: skip
STEPS = {"codebook": "stage1.steps", "cached": "stage2.cached.steps", "lipformer": "stage2.joint.steps"}

FIGURES = {
    "lipformer.mouth_psnr": "mouth PSNR, dB",
    "copy_reference.mouth_psnr": "mouth PSNR of a copied reference, dB",
    "ceiling.mouth_psnr": "mouth PSNR of the ceiling, dB",
    "lipformer.opening_corr_self": "lip opening, own audio",
    "lipformer.opening_corr_exchanged": "lip opening, other audio",
    "lipformer.silence_motion": "motion in silence",
    "meter.truth_corr": "the meter's own agreement with the truth",
}
ALONE = "the held-out end is one clip: there is no other to take the audio from"


def personal_config(config: Config, overrides: Mapping[str, object]) -> Config:
    """The settings of fine-tuning a run that was trained with `config`: SETTINGS, AT_MOST, and over them `overrides`.

    raises ConfigError as `Config.replace`
    """
    gentle = {name: min(attrgetter(name)(config), most) for name, most in AT_MOST.items()}
    return config.replace(SETTINGS | gentle).replace(overrides)


def personalise(
    video: Path | str,
    run: Path | str | None,
    out: Path | str,
    overrides: Mapping[str, object] | None = None,
    *,
    progress: bool = True,
) -> dict[str, object]:
    """Fine-tune a run to the person in a video and judge both on its held-out end; returns what the report holds.

    video : one person, with at least six usable seconds of speech; other faces must be clearly smaller
    run : a trained run, of which `lipformer` is enough; None: the pretrained weights
    out : becomes the person's run, with the prepared video in `data` and the report, flat JSON, in personalise.json:
        `before.*` and `after.*` by the same mouth meter, `minutes` of this call, `steps.*`, `frames.*`, fingerprint of
        the run it started from, and `perceptual`, the loss that was trained with: "none" where its file is not there.
        A killed call is gone on with; a finished one is returned at once.
    overrides : settings by dotted name, over those of `personal_config`
    raises DataError for a video that cannot be used (missing, no face, too short), CheckpointError where `run` is not
        there or has another architecture than the settings, or `out` holds another person's or other settings' run;
        ConfigError for an unknown or ill-typed setting; WeightsMissing without a landmark network, or without the file
        of a perceptual loss that `overrides` name
    """
    began = time.monotonic()
    video, run, out = Path(video), run or checkpoint.SHIPPED.name, Path(out)
    model = checkpoint.load_lipformer(run, device="cpu")
    config = personal_config(model.config, overrides or {})
    size = model.config.data.size
    if config.data.size != size:
        raise ConfigError(f"data.size: the run takes {size}, and a person's run has to take the same")
    checkpoint.fill(build(config), model)  # now rather than after the first stage
    start = checkpoint.fingerprint(model)
    asked = "stage1.perceptual" in (overrides or {})
    found = config if asked else _without_what_is_missing(config)
    origin, resumed = _claim(video, start, out, found.stage1.perceptual)
    if not asked:  # what was decided at first holds, wherever the file is now
        config = config.replace({"stage1.perceptual": origin.get("perceptual", config.stage1.perceptual)})
    corpus = prepare("person", video, out / "data", config, workers=1, progress=progress)
    if without := [split for split in SPLITS if not corpus.clips(split)]:
        raise DataError(f"{video}: no usable stretch of {Limits().min_run} frames for {', '.join(without)}")
    finished(out / "codebook", config, corpus.hash)  # with other settings it is refused; stage 2 would take it as it is
    after = train_lipformer(config, corpus.folder, out, progress, start=run)
    if (out / REPORT).is_file():
        return json.loads((out / REPORT).read_text())
    meter = train_meter(corpus, out / "evaluation", progress=progress)
    figures = {
        f"{when}.{key}": value
        for when, judged in (("before", model), ("after", after))
        for key, value in _judge(judged, meter, corpus, progress).items()
    }
    report = {"video": str(video), "run": str(run), "start": start, "resumed": resumed}
    report["perceptual"] = config.stage1.perceptual
    report |= {f"frames.{split}": sum(info.n_frames for info in corpus.clips(split)) for split in SPLITS}
    report |= {f"steps.{stage}": attrgetter(name)(config) for stage, name in STEPS.items()}
    return write_results(out / REPORT, report | figures | {"minutes": (time.monotonic() - began) / 60})


def table(report: Mapping[str, object]) -> str:
    """The report's figures before and after, a line each; a dash where there is none."""
    lines = [f"{'':42}{'before':>8}{'after':>8}"]
    for key, title in FIGURES.items():
        values = [report[f"{when}.{key}"] for when in ("before", "after")]
        cells = ["–" if value is None else f"{value:.{1 if 'psnr' in key else 3}f}" for value in values]
        lines.append(f"{title:42}{cells[0]:>8}{cells[1]:>8}")
    lines.append(f"{report['frames.test']} held-out frames; {report['minutes']:.1f} minutes")
    if report.get("perceptual") == "none":
        lines.append("trained without a perceptual loss, whose file is not there or which was not asked for")
    return "\n".join(lines)


def _without_what_is_missing(config: Config) -> Config:
    """The settings without a perceptual loss where its file is not there."""
    try:
        perceptual_loss(config.stage1.perceptual, 1.0)
    except WeightsMissing:
        return config.replace({"stage1.perceptual": "none"})
    return config


def _claim(video: Path, start: str, out: Path, perceptual: str) -> tuple[dict[str, str], bool]:
    """Where a folder's work comes from, and whether it is there already; an empty folder is claimed for it."""
    if not video.is_file():
        raise DataError(f"{video}: no such file")
    with video.open("rb") as file:
        origin = {"video_sha256": hashlib.file_digest(file, "sha256").hexdigest(), "start": start}
    path = out / ORIGIN
    if not path.is_file():
        if any((out / name).exists() for name in ("codebook", "lipformer")):
            raise CheckpointError(f"{out} holds a run that is no person's; choose another folder")
        write_json(path, origin | {"perceptual": perceptual})
        return origin | {"perceptual": perceptual}, False
    claimed = json.loads(path.read_text())
    if different := [name for name, value in origin.items() if claimed[name] != value]:
        what = "video" if "video_sha256" in different else "run to start from"
        raise CheckpointError(f"{out} belongs to another {what}; choose another folder or remove it")
    return claimed, True


def _judge(model: LipFormer, meter: MouthMeter, corpus: PreparedCorpus, progress: bool) -> dict[str, object]:
    """FIGURES on the held-out end, None with its reason under `<key>.why`."""
    device = choose_device()
    clips = [info.clip_id for info in corpus.clips("test")]
    scorers = Scorers(missing={"lipformer.opening_corr_exchanged": ALONE} if len(clips) == 1 else {})
    results, _ = evaluate_model(
        model.to(device), meter, corpus, clips, device=device, scorers=scorers, sheets=0, progress=progress
    )
    return {name: results[name] for key in FIGURES for name in (key, f"{key}.why") if name in results}
