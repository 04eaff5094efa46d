"""The evaluation protocol: rows and cases, clip by clip, in bounded memory.

Rows: ground truth, the stage-1 reconstruction (the ceiling), copying the reference's bottom half, the warped
reference without Transformer, LipFormer, and a Wav2Lip-style generator where the run has trained one. Cases: own
audio, another person's audio, silence, shifted audio.
What the mouth does is read from pixels by the mouth meter; its own agreement with the truth is in the table.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lipformer_core.checkpoint import load_lipformer, load_sync, load_wav2lip, run_folder
from lipformer_core.data.audio.speech import sound_width
from lipformer_core.data.faces.recognition import RECOGNITION_FILE, Recogniser
from lipformer_core.data.prepared.clips import PreparedCorpus
from lipformer_core.device import choose_device
from lipformer_core.errors import DataError, NoFaceFound, WeightsCorrupt, WeightsMissing

from ..model.syncnet import SyncNet
from ..progress import tqdm
from ..training.lipformer import Trained
from . import lse
from .cases import exchange_partner, strangers_of
from .clip_judge import SCORED, SYNC, ClipJudge, ClipScores, Scorers
from .mouth_meter import train_meter
from .pretrained_metrics import FID_INCEPTION, LPIPS_TRUNK, Fid, Lpips, read_landmarks, why_not
from .report import summarise, write_report
from .showcase import illustrate
from .sync import sync_accuracy

SHIFT = 5  # frames: 0.2 s
METER = "mouth_meter"  # folder of the mouth meter, within that of the data
HEARD = "sound_alone.opening_corr_self"
WARPED = ("mouth_psnr", "deviation")  # always among the results, null for a model without a reference
BASELINE = ("wav2lip.mouth_psnr", "wav2lip.motion", "wav2lip.silence_motion")  # that are null, with the reason
ACCURACY = ("sync_expert.two_sounds_shifted", "sync_expert.two_sounds_foreign")


def evaluate(
    run: Path | str | None,
    data: Path | str,
    out: Path | str,
    *,
    split: str = "test",
    max_clips: int | None = None,
    device: str | None = None,
    progress: bool = True,
) -> dict[str, object]:
    """Judge the trained LipFormer of a run on a split of a prepared corpus and write the report to `out`.

    run: folder of a training run; None: the pretrained weights. data: folder of a prepared corpus.
    max_clips: the first so many clips, all if None.
    Writes results.json, table.csv, summary.md, series.npz, pictures and short videos; returns the results. The mouth
    meter of the data is trained once and kept beside them, or in `out` where their folder cannot be written; nothing is
    written into the run. Where the run has a sync expert (`lipformer train sync`), it judges every row, and its own
    accuracy on the split stands beside; where it has a Wav2Lip-style generator, that has its row. device: as of
    `load_lipformer`. Raises CheckpointError, ConfigError, DataError.
    """
    corpus = PreparedCorpus(data)
    target = choose_device(device)
    model = load_lipformer(run, device=target)
    if (size := model.config.data.size) != corpus.crop_size:
        raise DataError(
            f"{data}: crops of {corpus.crop_size} pixels, but the model takes {size}; "
            f"prepare them with --set data.size={size}"
        )
    clip_ids = [info.clip_id for info in corpus.clips(split, stills=False)][:max_clips]
    if not clip_ids:
        raise DataError(f"{data}: no clips in the split {split!r}; the splits are train, val and test")
    Path(out).mkdir(parents=True, exist_ok=True)  # if it cannot be made, then before anything is judged
    beside = corpus.folder if os.access(corpus.folder, os.W_OK) else Path(out)
    meter = train_meter(corpus, beside / METER, progress=progress)
    filmed = corpus.manifest["settings"]["corpus"] != "synthetic"  # a landmark network is of no use on drawn faces
    scorers = open_scorers(run_folder(run), target, landmark_check=filmed)
    judges = Trained.load(run).judges
    scorers.judges = None if judges is None else judges.to(target)
    results, clips = evaluate_model(model, meter, corpus, clip_ids, device=target, scorers=scorers, progress=progress)
    if scorers.sync is not None:
        results |= _expert_accuracy(scorers.sync, corpus, split, progress)
    for row, speaker in (("lipformer", model), ("wav2lip", scorers.wav2lip)):
        results |= {} if speaker is None else {f"{row}.{name}": value for name, value in cost(speaker).items()}
    if clips:
        illustrate(model, [corpus.open(clip.clip_id) for clip in clips], Path(out))
    results |= {"split": split, "split_rule": corpus.manifest["split_rule"], "data_hash": corpus.hash}
    return write_report(Path(out), results, clips)


def _expert_accuracy(expert: SyncNet, corpus: PreparedCorpus, split: str, progress: bool) -> dict[str, object]:
    """How often the sync expert is right on the split; its threshold is fixed on the validation split."""
    try:
        return sync_accuracy(expert, corpus, split, progress=progress).flat()
    except DataError as error:
        return {key: value for name in ACCURACY for key, value in ((name, None), (f"{name}.why", str(error)))}


def open_scorers(run: Path, device: torch.device, landmark_check: bool) -> Scorers:
    """Whatever optional measurements are possible here, and the reasons why the others are not."""
    scorers = Scorers()
    if (run / "sync" / "model.safetensors").is_file():
        scorers.sync = load_sync(run).to(device)
    else:
        why = f"not available: {run.name} has no sync expert; lipformer train sync"
        scorers.missing |= {f"{row}.{column}": why for row in ("ground_truth", *SCORED) for column in SYNC}
        scorers.missing |= dict.fromkeys(ACCURACY, why)
    optional: dict[str, tuple] = {  # attribute to what opens it, its files, and its columns
        "lpips": (partial(Lpips, device), (LPIPS_TRUNK,), ("lpips",)),
        "fid": (partial(Fid, device), (FID_INCEPTION,), ("fid",)),
        "identity": (Recogniser, (RECOGNITION_FILE,), ("identity_distance",)),
        "lse": (partial(lse.Lse, device), (lse.SYNCNET, lse.DETECTOR), lse.COLUMNS),
    }
    for name, (opened, files, columns) in optional.items():
        try:
            setattr(scorers, name, opened())
        except (WeightsMissing, WeightsCorrupt) as error:
            why = why_not(next((file for file in files if file in str(error)), files[0]), error)
            rows = ("ground_truth", *SCORED) if name == "lse" else SCORED
            scorers.missing |= {f"{row}.{column}": why for row in rows for column in columns}
    if (run / "wav2lip" / "model.safetensors").is_file():
        scorers.wav2lip = load_wav2lip(run, device)
    else:
        why = f"not available: {run.name} has no Wav2Lip-style generator; lipformer train wav2lip"
        scorers.missing |= dict.fromkeys(BASELINE, why)
    opening = "opening_corr_self_landmarks"
    by_landmarks = (f"lipformer.{opening}", f"ground_truth.{opening}", "lipformer.lmd")
    if not landmark_check:
        scorers.missing |= dict.fromkeys(by_landmarks, "not measured: faces are drawn, not filmed")
    else:
        from lipformer_core.data.faces import MEDIAPIPE_FILE, open_tracker

        try:
            scorers.landmarks = partial(read_landmarks, open_tracker())
        except (WeightsMissing, WeightsCorrupt) as error:
            scorers.missing |= dict.fromkeys(by_landmarks, why_not(MEDIAPIPE_FILE, error))
    return scorers


@torch.inference_mode()
def cost(model: nn.Module) -> dict[str, float]:
    """`parameters`, in millions, and `gflop`, of one frame whose reference is encoded already."""
    config, weight = model.config, next(model.parameters())
    face = torch.zeros(1, 3, config.data.size, config.data.size, device=weight.device)
    sound = torch.zeros(1, config.audio.window, sound_width(config.audio.speech_encoder), device=weight.device)
    reference = model.encode_reference(face)
    return {
        "parameters": sum(p.numel() for p in model.parameters()) / 1e6,
        "gflop": gigaflop(lambda: model.say(model.look(face, reference), sound)),
    }


def gigaflop(call: Callable[..., object], *given: object) -> float:
    """GFLOP of `call(*given)` as torch counts them: two for a product and sum of convolutions, matrices, attention."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        call(*given)
    return counter.get_total_flops() / 1e9


def evaluate_model(
    model: Any,
    meter: Any,
    corpus: Any,
    clip_ids: Sequence[str],
    *,
    device: torch.device | str = "cpu",
    shift: int = SHIFT,
    scorers: Scorers | None = None,
    sheets: int = 3,
    progress: bool = False,
) -> tuple[dict[str, object], list[ClipScores]]:
    """Score a model on clips: (flat results as in `report.summarise`, one ClipScores a clip).

    model: anything with LipFormer's `config`, encode_reference, encode_bottom, look, say and show; meter:
    anything with `read`; corpus: anything with `open`. shift: frames by which the audio is shifted in the shifted case
    (every other clip the other way), 0 for none. sheets: clips that keep pictures.
    """
    scorers = scorers or Scorers()
    persons = [corpus.open(clip_id).info.person for clip_id in clip_ids]
    clips, skipped = [], {}
    for position, clip_id in enumerate(tqdm(clip_ids, desc="evaluate", unit="clip", disable=not progress)):
        partner = exchange_partner(position, persons)
        driver = None if partner is None else corpus.open(clip_ids[partner])
        judge = ClipJudge(corpus.open(clip_id), driver, meter, scorers, -shift if position % 2 else shift)
        try:
            strangers = [corpus.open(clip_ids[i]) for i in strangers_of(position, partner, len(clip_ids))]
            kept = position < sheets
            clips.append(judge.score(model, torch.device(device), keep_pictures=kept, strangers=strangers))
        except NoFaceFound as error:
            skipped[clip_id] = str(error)
    asked = {HEARD: "not available: trained without stage2.lip_supervision, nothing reads the lips from the sound"}
    asked |= {f"warped_reference.{column}": "not available: no reference was warped" for column in WARPED}
    shown = [row for row in ("ground_truth", *SCORED) if any(f"{row}.deviation" in clip.values for clip in clips)]
    timed = ((scorers.sync, SYNC, "the sync expert"), (scorers.lse, lse.COLUMNS, "SyncNet, or has its sound"))
    for scorer, columns, whom in timed:
        if scorer is not None:
            too_short = f"no clip is long enough for {whom}"
            asked |= {f"{row}.{column}": too_short for row in shown for column in columns}
    measured = {key for clip in clips for key in clip.values}
    absent = {key: why for key, why in asked.items() if key not in measured}
    results = summarise(clips, skipped, scorers.missing | absent)
    results |= {
        f"{row}.fid": scorers.fid.distance(features, scorers.fid_sets["ground_truth"])
        for row, features in scorers.fid_sets.items()
        if row != "ground_truth"
    }
    return results, clips
