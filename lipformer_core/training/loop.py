"""The one training loop: every stage of both trainings runs through it.

A stage lives in a folder of its own: `step-*.safetensors` (the last few complete states, to resume),
`model.safetensors` (the best weights by validation, written when the stage is finished) and `log.csv`, with the same
rows for TensorBoard. All randomness of a step comes from (seed, step), so a resumed run takes the very steps that an
uninterrupted one would have taken.
"""

import math
import os
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object

from .. import checkpoint, provenance
from ..config import Config, from_dict
from ..data.prepared.prefetch import prefetched, prefetched_by_processes
from ..errors import CheckpointError, TrainingDiverged
from ..files import remove_unfinished, replaced
from ..progress import tqdm
from .averaging import WeightAverage
from .journal import LOG, Journal
from .stage import Stage

BEST, FINISHED = "best.safetensors", "model.safetensors"
WARMUP_STEPS = 200  # of the rate, but at most a twentieth of all
LOG_EVERY = 25  # steps between two rows of the log
KEPT_STATES = 2  # to resume from, the newest ones
GRADIENT_NORM = 1.0  # gradients are clipped to it
STATES = "step-*.safetensors"  # what a run resumes from


def finished(folder: Path, config: Config | None = None, data_hash: str | None = None) -> bool:
    """Whether the stage in `folder` is complete. CheckpointError if it is, but with other settings or data.

    config : None where it may have any
    data_hash : of the corpus; None where it may be any
    """
    path = folder / FINISHED
    if not path.is_file():
        return False
    if config is not None:
        _same(checkpoint.load(path)[0], config, data_hash, folder)
    return True


def take_over(source: Path, folder: Path) -> None:
    """Make the finished stage in `source`, of another run, that of `folder`: its weights, and its log if there is one.

    raises CheckpointError if it is not finished
    """
    if not finished(source):
        raise CheckpointError(f"{source}: no finished stage to take over")
    folder.mkdir(parents=True, exist_ok=True)
    for name in (LOG, f"{Path(FINISHED).stem}.json", FINISHED):  # what says that it is complete comes last
        if name != LOG or (source / name).is_file():  # weights that were halved have none
            with replaced(folder / name) as temporary:
                shutil.copyfile(source / name, temporary)


def learning_rate(step: int, steps: int) -> float:
    """Factor on the base rate: linear warm-up, then a cosine down to 2 %."""
    warmup = min(WARMUP_STEPS, steps // 20)
    return min(1.0, (step + 1) / max(1, warmup)) * (0.51 + 0.49 * math.cos(math.pi * step / steps))


def run_stage(folder: Path, stage: Stage, data_hash: str, progress: bool = True) -> None:
    """Train a stage to its end, from where it stands; its model then holds the best weights by validation.

    raises TrainingDiverged at a loss or gradient that is not finite, naming the step and its frames; CheckpointError if
        the folder was trained with other settings or data
    """
    config, accelerator, steps = stage.config, stage.accelerator, stage.steps
    average = WeightAverage(stage.model, config.optimiser.weight_average) if config.optimiser.weight_average else None
    start, best = _resume(folder, stage, average, data_hash)
    accumulate, every, workers = config.optimiser.accumulate, config.engine.check_every, config.engine.workers
    base = [(group, group["lr"]) for optimiser in stage.optimisers for group in optimiser.param_groups]
    stage.average = average
    keep = _Checkpoints(folder, stage, average, data_hash)
    seen: list[tuple[int, dict]] = []
    began, waited = time.monotonic(), 0.0
    with ExitStack() as opened:  # closed when a step fails, too
        opened.enter_context(_deterministic(config.engine.deterministic))
        numbers = range(start * accumulate, steps * accumulate)
        makers = partial(prefetched_by_processes, processes=workers) if workers else prefetched
        materials = opened.enter_context(closing(makers(stage.material, numbers)))
        journal = opened.enter_context(closing(Journal(folder, start))) if accelerator.is_main_process else None
        shown = {"desc": folder.name, "unit": "step", "mininterval": 2, "initial": start, "total": steps}
        bar = tqdm(range(start, steps), disable=not (progress and accelerator.is_local_main_process), **shown)
        for number in opened.enter_context(bar):
            asked = time.monotonic()
            made = [next(materials) for _ in range(accumulate)]
            waited += time.monotonic() - asked
            torch.manual_seed(
                (config.seed * 1_000_003 + number) * accelerator.num_processes + accelerator.process_index
            )
            factor = learning_rate(number, steps)
            for group, rate in base:
                group["lr"] = rate * factor
            seen.append((number, optimise(stage, number, made)))
            if average:
                average.update()
            done = number + 1
            check = done % every == 0 or done == steps
            if check or done % LOG_EVERY == 0:
                means = _means(seen, stage, folder)
                seconds = time.monotonic() - began
                row = {"seconds": seconds, "waiting": waited / seconds, "lr_factor": factor} | means
                bar.set_postfix({k: f"{v:.3g}" for k, v in means.items()}, refresh=False)
                seen = []
                if check:
                    figures, best = _validate(stage, average, keep, done, best)
                    row |= figures
                if journal:
                    journal.write(done, row)
            if check and done < steps:
                keep.state(done, best)
    keep.finish()
    stage.model.load_state_dict(checkpoint.model_tensors(checkpoint.load(folder / FINISHED)[1]))


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    """Deterministic algorithms alone, where that is wanted; afterwards torch's switch is as it was."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if wanted:
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def optimise(stage: Stage, number: int, materials: list[Any]) -> dict[str, torch.Tensor]:
    """One step of every optimiser on the mean loss over `materials`; returns the mean figures and the gradients' norms.

    Figures stay on the device: nothing waits for them.
    """
    accelerator, parts = stage.accelerator, len(materials)
    stage.before(number)
    for optimiser in stage.optimisers:
        optimiser.zero_grad()
    figures: dict[str, torch.Tensor] = {}
    for part, material in enumerate(materials):
        with ExitStack() as alone:
            if part < parts - 1:  # processes exchange gradients once a step
                for network in stage.wrapped:
                    alone.enter_context(accelerator.no_sync(network))
            losses, seen = stage.losses(number, material)
            for loss in losses:
                if loss is not None:
                    accelerator.backward(loss / parts)
        for name, value in seen.items():
            figures[name] = figures.get(name, 0) + value / parts
    for index, (optimiser, loss) in enumerate(zip(stage.optimisers, losses, strict=True)):
        if loss is None:
            continue
        norms = [accelerator.clip_grad_norm_(group["params"], GRADIENT_NORM) for group in optimiser.param_groups]
        figures["gradient" if not index else f"gradient_{index}"] = torch.stack([n.detach() for n in norms]).max()
        optimiser.step()
    stage.after(number)
    return figures


def _validate(
    stage: Stage, average: WeightAverage | None, keep: "_Checkpoints", step: int, best: float
) -> tuple[dict[str, float], float]:
    """Validate the averaged weights and keep them if they are the best; returns (figures, best score so far).

    The first process's figures count for all: those of the others may differ in the last bits, and a process that
    alone thought its weights the best would wait alone for the others to keep them.
    """
    with average.in_place() if average else nullcontext():
        figures = broadcast_object_list([stage.evaluate()])[0]
        if not math.isfinite(figures[stage.score]):
            raise _diverged(keep.folder, f"step {step}: the validation gave {stage.score} = {figures[stage.score]}.")
        if figures[stage.score] > best:
            best = figures[stage.score]
            keep.best(step, best, figures)
    return figures, best


def _means(seen: list[tuple[int, dict]], stage: Stage, folder: Path) -> dict[str, float]:
    """Mean figures over some steps and all processes; a figure may be missing in some.

    Where one is not finite, every process stops, with the words of those that met it.
    """
    sums: dict[str, list[float]] = {}
    trouble = []
    for number, figures in seen:
        values = {name: float(value) for name, value in figures.items()}
        if not trouble:
            trouble = [words] if (words := _not_finite(number, values, stage)) else []
        for name, value in values.items():
            sums.setdefault(name, []).append(value)
    everywhere = gather_object([(sums, trouble)])
    trouble = [words for _, own in everywhere for words in own]
    if trouble:
        raise _diverged(folder, " ".join(trouble))
    means = {}
    for name in dict.fromkeys(name for own, _ in everywhere for name in own):
        values = [value for own, _ in everywhere for value in own.get(name, [])]
        means[name] = sum(values) / len(values)
    return means


def _diverged(folder: Path, trouble: str) -> TrainingDiverged:
    good = max(folder.glob(STATES), default=None)
    state = f"{good.name} holds the last good state" if good else "There is no earlier state"
    words = "the same command goes on from there, and a lower learning rate or other data may help"
    return TrainingDiverged(f"{folder}: {trouble} {state}; {words}")


def _not_finite(number: int, values: dict[str, float], stage: Stage) -> str:
    """What is wrong with a step's figures, and which frames it saw; empty if nothing is."""
    scaled = stage.accelerator.mixed_precision == "fp16"  # its scaler skips steps whose gradients overflow
    bad = [k for k, v in values.items() if not math.isfinite(v) and not (scaled and k.startswith("gradient"))]
    if not bad:
        return ""
    parts = range(number * stage.config.optimiser.accumulate, (number + 1) * stage.config.optimiser.accumulate)
    frames = "; ".join(stage.describe(stage.material(part)) for part in parts)
    return f"step {number} gave {', '.join(f'{k} = {values[k]}' for k in bad)}. Its frames: {frames}."


class _Checkpoints:
    """What a stage writes: the last few states to resume from, the best weights, and at the end those alone."""

    def __init__(self, folder: Path, stage: Stage, average: WeightAverage | None, data_hash: str):
        self.folder, self.stage, self.average, self.data_hash = folder, stage, average, data_hash
        if stage.accelerator.is_main_process:
            remove_unfinished(folder)
        device, processes = stage.device.type, stage.accelerator.num_processes
        engine = {"mixed_precision": stage.accelerator.mixed_precision, "device": device, "processes": processes}
        self.made_by = provenance.joined(stage.made_by, provenance.made_by("weights", **engine))

    def best(self, step: int, score: float, figures: dict[str, float]) -> None:
        """The weights that the model holds now are the best so far."""
        self._save(self.folder / BEST, {}, step=step, best=score, figures=figures)

    def state(self, step: int, best: float) -> None:
        """Everything that the next step depends on; older states go, KEPT_STATES stay."""
        extra = checkpoint.optimiser_tensors(self.stage.optimisers)
        extra |= checkpoint.scaler_tensors(self.stage.accelerator.scaler)
        if self.average:
            extra |= {f"{checkpoint.AVERAGE}{name}": value for name, value in self.average.state().items()}
        self._save(self.folder / STATES.replace("*", f"{step:08d}"), extra, step=step, best=best)
        if self.stage.accelerator.is_main_process:
            for old in sorted(self.folder.glob(STATES))[:-KEPT_STATES]:
                _remove(old)

    def finish(self) -> None:
        """The best weights become the stage's result."""
        if self.stage.accelerator.is_main_process:
            best, result = self.folder / BEST, self.folder / FINISHED
            if best.with_suffix(".json").is_file():  # else a process that was killed right here has moved it already
                os.replace(best.with_suffix(".json"), result.with_suffix(".json"))
            os.replace(best, result)  # the weights last: they mark the stage as finished
            for state in self.folder.glob(STATES):
                _remove(state)
        self.stage.accelerator.wait_for_everyone()

    def _save(self, path: Path, extra: dict[str, torch.Tensor], **more: object) -> None:
        if self.stage.accelerator.is_main_process:
            origin = {"start": self.stage.start} if self.stage.start else {}
            header = checkpoint.make_header(self.stage.config, self.data_hash, self.made_by, **origin, **more)
            checkpoint.save(path, self.stage.model, header, extra)
        self.stage.accelerator.wait_for_everyone()


def _remove(state: Path) -> None:
    state.unlink(missing_ok=True)
    state.with_suffix(".json").unlink(missing_ok=True)


def _same(header: dict, config: Config, data_hash: str | None, folder: Path) -> None:
    new, old = (c.decisive(folder.name) for c in (config, from_dict(header["config"])))
    changed = sorted(k for k in new if old[k] != new[k])
    if changed or data_hash not in (None, header["data_hash"]):
        what = f"other settings ({', '.join(changed)})" if changed else "other data"
        raise CheckpointError(f"{folder} was trained with {what}; choose another run folder or remove it")


def _resume(folder: Path, stage: Stage, average: WeightAverage | None, data_hash: str) -> tuple[int, float]:
    """Put the newest readable state back; returns (steps done, best score so far)."""
    for path in sorted(folder.glob(STATES), reverse=True):
        try:
            header, tensors = checkpoint.load(path)
        except CheckpointError as error:
            warnings.warn(f"{error}; the state before it is taken", stacklevel=3)
            continue
        _same(header, stage.config, data_hash, folder)
        stage.made_by = provenance.makers(header)
        stage.model.load_state_dict(checkpoint.model_tensors(tensors))
        for number, optimiser in enumerate(stage.optimisers):
            checkpoint.restore_optimiser(optimiser, tensors, number)
        checkpoint.restore_scaler(stage.accelerator.scaler, tensors)
        if average:
            average.restore(checkpoint.part(tensors, checkpoint.AVERAGE))
        return header["step"], header["best"]
    return 0, -math.inf
