"""The one training loop: every stage of both trainings runs through it.

A stage lives in a folder of its own: `last.safetensors` (model and optimiser, to resume), `model.safetensors` (the
best by validation, written when the stage is finished) and `log.csv`. All randomness of a step comes from
(seed, step), so a resumed run takes the very steps that an uninterrupted one would have taken.
"""

import csv
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from .. import checkpoint
from ..config import Config
from ..data.prefetch import prefetched
from ..errors import CheckpointError, TrainingDiverged
from ..progress import tqdm

LAST, BEST, FINISHED, LOG = "last.safetensors", "best.safetensors", "model.safetensors", "log.csv"

Material = Callable[[int], Any]
Step = Callable[[int, Any], dict[str, torch.Tensor | float]]
Evaluate = Callable[[], dict[str, float]]


def finished(folder: Path, config: Config, data_hash: str) -> bool:
    """Whether the stage in `folder` is complete. CheckpointError if it is, but with other settings or data."""
    path = folder / FINISHED
    if not path.is_file():
        return False
    header, _ = checkpoint.load(path)
    _same(header, config, data_hash, folder)
    return True


def learning_rate(step: int, steps: int, warmup: int) -> float:
    """Factor on the base rate: linear warm-up, then a cosine down to 2 %."""
    return min(1.0, (step + 1) / max(1, warmup)) * (0.51 + 0.49 * math.cos(math.pi * step / steps))


def run_stage(
    folder: Path,
    *,
    config: Config,
    data_hash: str,
    accelerator: Accelerator,
    model: nn.Module,
    optimisers: list[torch.optim.Optimizer],
    steps: int,
    material: Material,
    step: Step,
    evaluate: Evaluate,
    score: str,
    progress: bool = True,
) -> None:
    """Train `model` for `steps` steps, or for what is left of them; ends with the best weights loaded.

    material : what a step needs of the corpus, by the step's number alone; made by a thread while the one before is
        computed, so it draws from no global random numbers and leaves tensors' arithmetic to the step
    step : one optimisation step, by its number and material; returns what to log
    evaluate : validation figures; `score` names the one to be maximised
    raises TrainingDiverged at a loss that is not finite, naming the step
    """
    start, best = _resume(folder, config, data_hash, model, optimisers)
    base = [[group["lr"] for group in optimiser.param_groups] for optimiser in optimisers]
    began, seen, waited = time.monotonic(), {}, 0.0
    materials = prefetched(material, range(start, steps))
    bar = tqdm(
        range(start, steps),
        desc=folder.name,
        unit="step",
        disable=not progress,
        mininterval=2,
        initial=start,
        total=steps,
    )
    for number in bar:
        asked = time.monotonic()
        made = next(materials)
        waited += time.monotonic() - asked
        torch.manual_seed(config.seed * 1_000_003 + number)
        factor = learning_rate(number, steps, config.warmup_steps)
        for optimiser, rates in zip(optimisers, base, strict=True):
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        losses = {k: float(v) for k, v in step(number, made).items()}
        if not all(map(math.isfinite, losses.values())):
            raise TrainingDiverged(f"{folder}: step {number} gave {losses}; {LAST} holds the last good state")
        for name, value in losses.items():  # a figure may be missing in some steps
            seen.setdefault(name, []).append(value)
        done = number + 1
        check = done % config.eval_every == 0 or done == steps
        if done % config.log_every == 0 or check:
            means = {name: sum(values) / len(values) for name, values in seen.items()}
            bar.set_postfix({k: f"{v:.3g}" for k, v in means.items()}, refresh=False)
            seen = {}
            figures = evaluate() if check else {}
            seconds = time.monotonic() - began
            row = {"step": done, "seconds": seconds, "waiting": waited / seconds, "lr_factor": factor}
            row |= means | figures
            if accelerator.is_main_process:
                _log(folder / LOG, row)
            if check and figures[score] > best:
                best = figures[score]
                _save(folder / BEST, accelerator, model, config, data_hash, step=done, best=best, figures=figures)
        if done % config.save_every == 0 and done < steps:
            _save(folder / LAST, accelerator, model, config, data_hash, optimisers, step=done, best=best)
    _finish(folder, accelerator)
    model.load_state_dict(checkpoint.model_tensors(checkpoint.load(folder / FINISHED)[1]))


def read_log(folder: Path) -> dict[str, list[float]]:
    """The stage's curves: column name to values; NaN where a row has no such figure."""
    with (Path(folder) / LOG).open() as f:
        rows = [(row["step"], row["name"], row["value"]) for row in csv.DictReader(f)]
    steps = sorted({int(step) for step, _, _ in rows})
    at = {step: i for i, step in enumerate(steps)}
    columns: dict[str, list[float]] = {"step": [float(s) for s in steps]}
    for step, name, value in rows:
        columns.setdefault(name, [math.nan] * len(steps))[at[int(step)]] = float(value)
    return columns


def _log(path: Path, row: dict[str, float]) -> None:
    # long form (step, name, value): validation figures come in some rows only
    new = not path.is_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as f:
        writer = csv.writer(f)
        if new:
            writer.writerow(["step", "name", "value"])
        writer.writerows([row["step"], name, f"{value:.6g}"] for name, value in row.items() if name != "step")


def _forget_after(path: Path, step: int) -> None:
    """Drop log rows that an interrupted run wrote after its last checkpoint."""
    if not path.is_file():
        return
    with path.open() as f:
        header, *rows = list(csv.reader(f))
    with path.open("w", newline="") as f:
        csv.writer(f).writerows([header, *(row for row in rows if int(row[0]) <= step)])


def _same(header: dict, config: Config, data_hash: str, folder: Path) -> None:
    new = config.decisive(folder.name)
    changed = sorted(k for k in new if header["config"].get(k) != new[k])
    if changed or header["data_hash"] != data_hash:
        what = f"other settings ({', '.join(changed)})" if changed else "other data"
        raise CheckpointError(f"{folder} was trained with {what}; choose another run folder or remove it")


def _resume(
    folder: Path, config: Config, data_hash: str, model: nn.Module, optimisers: list[torch.optim.Optimizer]
) -> tuple[int, float]:
    if not (folder / LAST).is_file():
        _forget_after(folder / LOG, 0)
        return 0, -math.inf
    header, tensors = checkpoint.load(folder / LAST)
    _same(header, config, data_hash, folder)
    model.load_state_dict(checkpoint.model_tensors(tensors))
    for number, optimiser in enumerate(optimisers):
        checkpoint.restore_optimiser(optimiser, tensors, number)
    _forget_after(folder / LOG, header["step"])
    return header["step"], header["best"]


def _save(
    path: Path,
    accelerator: Accelerator,
    model: nn.Module,
    config: Config,
    data_hash: str,
    optimisers: list[torch.optim.Optimizer] | None = None,
    **more: object,
) -> None:
    if accelerator.is_main_process:
        checkpoint.save(path, model, checkpoint.make_header(config, data_hash, **more), optimisers)
    accelerator.wait_for_everyone()


def _finish(folder: Path, accelerator: Accelerator) -> None:
    if accelerator.is_main_process:
        for ending in (".json", ".safetensors"):  # the weights last: they mark the stage as finished
            os.replace((folder / BEST).with_suffix(ending), (folder / FINISHED).with_suffix(ending))
            (folder / LAST).with_suffix(ending).unlink(missing_ok=True)
    accelerator.wait_for_everyone()
