"""Measuring a model: `evaluate`, `compare`."""

from pathlib import Path
from typing import Annotated

import typer

from .options import Device, Progress, ShippedRun, choice

Judged = choice("Judged", "lipformer", "codebook")


def evaluate(
    data: Annotated[Path, typer.Option(help="Folder that `lipformer prepare` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for tables and figures.")],
    run: ShippedRun = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    max_clips: Annotated[int | None, typer.Option(min=1, help="The first so many clips; all otherwise.")] = None,
    stage: Annotated[Judged, typer.Option(help="The model, or its stage 1 alone.")] = Judged.lipformer,
    device: Device = None,
    progress: Progress = True,
) -> None:
    """Measure the model against ground truth, its ceiling and the baselines, on people it never saw.

    **Examples**

    `lipformer evaluate --data data/synthetic --out eval/shipped`

    `lipformer evaluate --run runs/quick --data data/synthetic --out eval/quick --max-clips 8`

    `lipformer evaluate --stage codebook --data data/faces --out eval/codebook`
    """
    if stage is Judged.codebook:
        from ..evaluation.codebook import judge_run

        for name, value in judge_run(run, data, out, split, max_clips, device, progress).items():
            typer.echo(f"{name}: {value}")
    else:
        from ..evaluation.protocol import evaluate as run_evaluate

        run_evaluate(run, data, out, split=split, max_clips=max_clips, device=device, progress=progress)
    typer.echo(f"evaluated: {out}")


def compare(
    a: Annotated[Path, typer.Argument(help="Folder of an evaluation.")],
    b: Annotated[Path, typer.Argument(help="Folder of another one on the same data, or the same one.")],
    rows: Annotated[tuple[str, str], typer.Option(help="The rows of A and of B.")] = ("lipformer", "lipformer"),
    out: Annotated[Path | None, typer.Option(help="Write the numbers as JSON, too.")] = None,
) -> None:
    """Compare two evaluations clip by clip: each column's difference with its interval, and a sentence.

    **Examples**

    `lipformer compare eval/no_warping eval/quick`

    `lipformer compare eval/quick eval/quick --rows wav2lip lipformer --out compared.json`
    """
    from ..evaluation.compare import compare as run_compare

    for key, value in run_compare(a, b, rows, out or "").items():
        if key.endswith(".sentence"):
            typer.echo(value)
