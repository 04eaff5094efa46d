"""All numbers of a run as one flat object with stable keys."""

import json
import os
import platform
import statistics
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lipformer_core import provenance
from lipformer_core.results import ResultsError, flat

from .experiment import Experiment, Step

# Always present, under these names for good: (label in the report, what it means).
KEYS = {
    "codebook.psnr": ("Codebook PSNR", "dB, reconstruction of held-out persons"),
    "codebook.ssim": ("Codebook SSIM", "reconstruction of held-out persons"),
    "codebook.upper_usage": ("Upper codebook in use", "share of codes, held-out persons"),
    "codebook.bottom_usage": ("Bottom codebook in use", "share of codes, held-out persons"),
    "lipformer.opening_corr_self": ("Mouth opening, own audio", "correlation with the true mouth"),
    "lipformer.opening_corr_exchanged": ("Mouth opening, exchanged audio", "correlation with the audio's true mouth"),
    "ceiling.opening_corr_self": (
        "Mouth opening, stage-1 reconstruction",
        "what the codes of the true face show of it",
    ),
    "sound_alone.opening_corr_self": ("Mouth opening, sound alone", "a linear map from F_Aud, no picture"),
    "lipformer.leak": ("Leak", "partial correlation with the mouth that the video had; 0 is best"),
    "lipformer.silence_motion": ("Motion in silence", "share of speech's motion; 0 is best"),
    "lipformer.motion": ("Motion", "deviation of the mouth opening over the truth's; 1 is best"),
    "lipformer.sharpness": ("Sharpness of the lower face", "gradient energy over the truth's; 1 is best"),
    "ceiling.sharpness": ("Sharpness, stage-1 reconstruction", "gradient energy over the truth's"),
    "lipformer.identity_distance": ("Identity", "distance to the true face by dlib's network"),
    "lipformer.mouth_psnr": ("Mouth PSNR", "dB, LipFormer"),
    "copy_reference.mouth_psnr": ("Mouth PSNR, copied reference", "dB, the floor"),
    "ceiling.mouth_psnr": ("Mouth PSNR, stage-1 reconstruction", "dB, the ceiling"),
    "warping.error_ratio": ("Warping error ratio", "with warping over without, pose gaps above 10°; below 1 it helps"),
}
PACKAGES = ("numpy", "torchvision", "accelerate", "av", "opencv-python", "mediapipe", "papermill")


def machine(steps: list[Step]) -> dict:
    """Python, torch, main packages and the device that torch would use here."""
    import torch

    if torch.cuda.is_available():
        device = f"cuda: {torch.cuda.get_device_name(0)}"
    elif torch.backends.mps.is_available():
        device = "mps"
    else:
        device = f"cpu: {os.cpu_count()} cores"
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "packages": packages,
        "device": device,
        "platform": f"{platform.system()} {platform.machine()}",
        "seed": next((s.parameters["seed"] for s in steps if "seed" in s.parameters), None),
    }


def gather(experiment: Experiment, steps: list[Step], state: dict, record: dict, out: Path) -> tuple[dict, list[str]]:
    """(flat numbers, warnings). Keys of KEYS and `seconds.<notebook>` are always there, null with `<key>.why` at worst.

    A key that two notebooks write keeps the later one's value, with a warning. Notebooks skipped in this call
    count with what they wrote when they ran; `run.*` then describes the oldest of them that is still in use.
    `made_by.<folder>` says which sources made each corpus and stage; what others than the present ones made is named
    in `run.made_by_others` and in a warning.
    """
    numbers: dict[str, object] = {}
    warnings: list[str] = []
    origin: dict[str, str] = {}
    unfinished = [s.name for s in steps if not state.get(s.name, {}).get("finished")]
    for step in steps:
        for key, value in _read(out, step, warnings).items() if step.name not in unfinished else ():
            key = f"{step.label}.{key}" if step.variant else key
            if key in origin and numbers[key] != value:
                warnings.append(f"{step.name} overwrites {key} of {origin[key]}")
            numbers[key] = value
            origin[key] = step.name
    numbers |= _over_seeds(steps, numbers)
    for key in KEYS:
        if key not in numbers:
            numbers[key] = None
            numbers[f"{key}.why"] = (
                f"not finished: {', '.join(unfinished)}" if unfinished else "no notebook of this run measures it"
            )
    for step in steps:
        seconds = state.get(step.name, {}).get("seconds")
        numbers[f"seconds.{step.name}"] = seconds
        if seconds is None:
            numbers[f"seconds.{step.name}.why"] = "not executed"
    numbers.update(_describe(experiment, steps, state, record))
    numbers.update(_origins(steps, out, warnings))
    return flat(numbers), warnings


def _over_seeds(steps: list[Step], numbers: dict) -> dict:
    """`VARIANT.KEY`: the mean over a variant's seeds of a key of KEYS, with its deviation where there are several."""
    out: dict[str, object] = {}
    for variant in dict.fromkeys(s.variant for s in steps if s.variant):
        labels = dict.fromkeys(s.label for s in steps if s.variant == variant)
        for key in KEYS:
            found = [numbers.get(f"{label}.{key}") for label in labels]
            if None not in found:
                out[f"{variant}.{key}"] = statistics.fmean(found)
                if len(found) > 1:
                    out[f"{variant}.{key}.deviation"] = statistics.stdev(found)
    return out


def variant_table(steps: list[Step], numbers: dict) -> tuple[list[str], dict[str, list[tuple[float, float] | None]]]:
    """(keys, variant to (mean, deviation) of each): what an ablation compares. Empty where nothing varies."""
    variants = list(dict.fromkeys(s.variant for s in steps if s.variant))
    keys = [key for key in KEYS if any(f"{variant}.{key}" in numbers for variant in variants)]
    cell = lambda v, k: (numbers[f"{v}.{k}"], numbers.get(f"{v}.{k}.deviation", 0.0)) if f"{v}.{k}" in numbers else None  # noqa: E731
    return keys, {variant: [cell(variant, key) for key in keys] for variant in variants} if keys else {}


def _describe(experiment: Experiment, steps: list[Step], state: dict, record: dict) -> dict:
    """`run.*`; where the notebooks were executed under different revisions, all of them are named."""
    entries = [state[s.name] for s in steps if s.name in state]
    revisions = list(dict.fromkeys(e["revision"] for e in entries if e.get("revision")))
    out = {
        "run.name": experiment.name,
        "run.title": experiment.title,
        "run.finished": len(entries) == len(steps) and all(e.get("finished") for e in entries),
        "run.started": min((e["started"] for e in entries), default=record["started"]),
        "run.revision": ", ".join(revisions) or None,
        "run.dirty": any(e["dirty"] for e in entries) if revisions else None,
        "run.seed": record["seed"],
        "run.seconds": round(sum(e.get("seconds") or 0 for e in entries), 1),
    }
    for key in ("device", "platform", "python", "torch"):
        out[f"run.{key}"] = ", ".join(dict.fromkeys(e[key] for e in entries)) or record[key]
    out.update({f"run.package.{name}": value for name, value in record["packages"].items()})
    if not revisions:
        out["run.revision.why"] = out["run.dirty.why"] = "not a git checkout with a commit"
    if record["seed"] is None:
        out["run.seed.why"] = "the experiment names none: each notebook's default"
    return out


def _origins(steps: list[Step], out: Path, warnings: list[str]) -> dict:
    numbers, old = {}, []
    for work in dict.fromkeys(Path(step.parameters.get("work", out / "work")) for step in steps):
        for name, kind, makers in provenance.products(work):
            numbers[f"made_by.{name}"] = provenance.words(makers)
            if provenance.by_others(makers, kind):
                old.append(f"{name} ({provenance.words(makers)})")
    numbers["run.made_by_others"] = "; ".join(old) or "nothing"
    if old:
        warnings.append(
            f"made by other sources than the present ones: {'; '.join(old)}; FORCE=1 (--force) makes it anew"
        )
    return numbers


def _read(out: Path, step: Step, warnings: list[str]) -> dict:
    path = Path(step.parameters.get("results", out / "results" / f"{step.name}.json"))
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ResultsError("is no flat object")
        return flat(values)
    except (json.JSONDecodeError, ResultsError) as error:
        warnings.append(f"{path.name} is left out: {error}")
        return {}
