"""Dubbing: `dub`, `dub-batch`."""

from pathlib import Path
from typing import Annotated

import typer

from .options import Device, Progress, ShippedRun, choice

Policy = choice("Policy", "pingpong", "loop", "cut", "error")
Crf = Annotated[int, typer.Option(min=0, max=51, help="Quality of H.264, lower is better; 0: lossless RGB.")]
Mark = Annotated[bool, typer.Option("--mark", help='Write "AI-generated" into the corner of the picture.')]


def dub(
    video: Annotated[Path, typer.Argument(help="Video or portrait.")],
    audio: Annotated[Path, typer.Argument(help="Speech: any file with an audio track.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The mp4 to write.")],
    run: ShippedRun = None,
    face: Annotated[
        str,
        typer.Option(
            help="`largest`, a face's number from the left, from 0, or a picture of the person (./7 if it is called 7)."
        ),
    ] = "largest",
    policy: Annotated[Policy, typer.Option(help="When the audio outlasts the video.")] = Policy.pingpong,
    start: Annotated[float, typer.Option(help="Seconds of VIDEO from which it is dubbed.")] = 0.0,
    end: Annotated[float | None, typer.Option(help="And up to which; none: its end.")] = None,
    reference: Annotated[
        float | None, typer.Option(help="Seconds of VIDEO where the picture lends the mouth's texture; none: chosen.")
    ] = None,
    crf: Crf = 17,
    mark: Mark = False,
    sway: Annotated[bool, typer.Option("--sway", help="Move a portrait gently, as a camera held by hand.")] = False,
    landmarks: Annotated[Path | None, typer.Option(help="Landmarks from a file instead of a tracker.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write what was done, frame ranges included, as JSON.")] = None,
    device: Device = None,
    progress: Progress = True,
) -> None:
    """Make the person in VIDEO say AUDIO; only the lower face changes. The same command goes on where it was stopped.

    **Examples**

    `lipformer dub video.mp4 speech.wav -o out.mp4`

    `lipformer dub video.mp4 speech.wav --run runs/quick -o out.mp4 --report out.json`

    `lipformer dub portrait.jpg speech.wav --run runs/quick -o out.mp4 --face 1 --sway`

    `lipformer dub film.mp4 speech.wav -o out.mp4 --face anna.jpg`

    `lipformer dub talk.mp4 speech.wav -o out.mp4 --start 61.5 --end 75 --reference 63 --mark`
    """
    from ..checkpoint import load_lipformer
    from ..dubbing.dub import dub as run_dub
    from ..dubbing.source_face import parse_face
    from ..files import check_outputs

    chosen = parse_face(face)
    check_outputs([out] if report is None else [out, report], [] if run is None else [*run.glob("*/model.*")])
    place = {"face": chosen, "policy": policy.value, "start": start, "end": end, "reference": reference}
    more = {"landmarks": landmarks, "report": report, "progress": progress, "crf": crf}
    more |= {"mark": mark, "sway": sway}
    done = run_dub(load_lipformer(run, device=device), video, audio, out, **place, **more)
    typer.echo(f"written: {out}" + (f"\n{done.table()}" if progress else ""))


def dub_batch(
    listing: Annotated[Path, typer.Argument(metavar="LIST", help="A CSV, a line a video; or a folder of pairs.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results and their table.")],
    run: ShippedRun = None,
    crf: Crf = 17,
    mark: Mark = False,
    device: Device = None,
    progress: Progress = True,
) -> None:
    """Dub every line of LIST with one loading of the model; what is finished is left alone.

    LIST is a folder whose videos or pictures each say the sound of the same name (anna.mp4, anna.wav); or a CSV with
    the columns `video` and `audio` and, each if wanted, `output`, `face`, `policy`, `start`, `end`, `reference` and
    `landmarks`, as `lipformer dub` has them. OUT then holds the videos, a report beside each, and `dubs.csv`: a line a
    video, what became of it, how long it is, and how fast it went. Exit code 1: some failed.

    **Example**

    `lipformer dub-batch list.csv -o dubbed --run runs/quick`

    `lipformer dub-batch folder -o dubbed`
    """
    from ..checkpoint import load_lipformer
    from ..dubbing.batch import dub_batch as run_batch

    lines = run_batch(load_lipformer(run, device=device), listing, out, crf=crf, mark=mark, progress=progress)
    for line in lines:
        said = line.get("error") or "{output_s:.2f} s for {audio_s:.2f} s of sound, {frames_per_second} frames/s"
        typer.echo(f"{line['status']:6} {line['output']}: {said.format(**line) if 'error' not in line else said}")
    failed = sum(line["status"] == "failed" for line in lines)
    typer.echo(f"{len(lines) - failed} of {len(lines)} are there: {out / 'dubs.csv'}")
    if failed:
        raise typer.Exit(1)
