"""Training: `train` and its stages, `personalise`."""

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ..config import PHASES
from .options import Preset, Progress, Run, Settings, ShippedRun, choice, configured, parse_settings

train = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="Train a stage of the model.")
Phase = choice("Phase", *PHASES)
Start = Annotated[
    Path | None, typer.Option("--from", help="A run whose weights are gone on from; `pretrained`: the package's own.")
]


def _stage(own: Callable[..., Callable]) -> Callable[..., None]:
    """The command of a stage: `own`'s options and those of all stages; `own` returns the function that trains."""

    def command(
        data: Annotated[
            list[Path], typer.Option(help="Folder that `lipformer prepare` wrote; repeat to join several.")
        ],
        run: Run,
        preset: Preset = "small",
        settings: Settings = None,
        seed: Annotated[int | None, typer.Option(help="Seed of all random numbers.")] = None,
        progress: Progress = True,
        **more: object,
    ) -> None:
        own(**more)(configured(preset, settings, seed), data, run, progress=progress)
        typer.echo(f"trained: {run}")

    *shared, progress, _ = inspect.signature(command).parameters.values()
    options = [*shared, *inspect.signature(own).parameters.values(), progress]
    command.__signature__ = inspect.Signature(options)
    command.__annotations__ = {option.name: option.annotation for option in options}
    command.__doc__ = own.__doc__
    return command


@train.command("codebook")
@_stage
def _codebook(start: Start = None) -> Callable:
    """Stage 1: encoder, the two codebooks and decoder, on face reconstruction; continues where it stopped.

    **Example**

    `lipformer train codebook --preset small --data data/synthetic --run runs/small --set codebook.size=512`
    """
    from ..training.codebook import train_codebook

    return partial(train_codebook, start=start)


@train.command("sync")
@_stage
def _sync() -> Callable:
    """The sync expert: whether a sound belongs to a mouth; continues where it stopped.

    **Example**

    `lipformer train sync --preset small --data data/synthetic --run runs/small`
    """
    from ..training.sync import train_sync

    return train_sync


@train.command("wav2lip")
@_stage
def _wav2lip() -> Callable:
    """The baseline: a generator after Wav2Lip, for a row beside LipFormer's in `lipformer evaluate`.

    The sync expert, its second loss, comes first where RUN has none. Continues where it stopped.

    **Example**

    `lipformer train wav2lip --preset small --data data/synthetic --run runs/small`
    """
    from ..training.wav2lip import train_wav2lip

    return train_wav2lip


@train.command("lipformer")
@_stage
def _lipformer(
    until: Annotated[Phase, typer.Option(help="The phase to stop after.")] = Phase.lipformer,
    start: Start = None,
    codebook: Annotated[
        Path | None, typer.Option(help="A run whose finished stage 1 is taken over; `pretrained`: the package's own.")
    ] = None,
) -> Callable:
    """Stage 2: warping, audio encoder and Transformer over the frozen codebooks of the same RUN.

    Stage 1 comes first where RUN has none; where it has, that may have been trained on other data.

    **Example**

    `lipformer train lipformer --preset small --data data/synthetic --run runs/small`

    `lipformer train lipformer --preset quick --data DATA --run runs/quick --codebook pretrained --from pretrained`

    `lipformer train lipformer --data data/synthetic --run runs/b --codebook runs/small --set lips.ablation=no_warping`

    `lipformer train lipformer --preset realtime --data data/mine --run runs/mine --codebook pretrained`
    """
    from ..training.lipformer import train_lipformer

    return partial(train_lipformer, until=until.value, start=start, codebook=codebook)


def personalise(
    video: Annotated[Path, typer.Argument(help="A video of one person: ten seconds to a few minutes, with speech.")],
    out: Annotated[Path, typer.Option(help="Folder of the person's own run.")],
    run: ShippedRun = None,
    settings: Settings = None,
    progress: Progress = True,
) -> None:
    """Fine-tune the pretrained weights, or those of RUN, to the person in VIDEO; judged on its held-out end; resumes.

    OUT is then a run like any other; `personalise.json` in it holds the figures before and after.

    **Examples**

    `lipformer personalise anna.mp4 --out runs/anna`

    `lipformer personalise anna.mp4 --run runs/quick --out anna --set stage1.steps=800 --set stage2.joint.steps=400`
    """
    from ..personalise import personalise as run_personalise
    from ..personalise import table

    typer.echo(table(run_personalise(video, run, out, parse_settings(settings), progress=progress)))
    typer.echo(f"personalised: {out}")
