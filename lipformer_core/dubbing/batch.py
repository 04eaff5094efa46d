"""Many dubbings with one loading of the models: a list in, videos and a table of what became of each row out."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoint import fingerprint
from ..data.corpora.clip_list import read_rows
from ..data.corpora.layout import IMAGE_ENDINGS, VIDEO_ENDINGS
from ..data.media import probe
from ..errors import ConfigError, DataError, LipFormerError
from ..files import atomic, check_outputs, held, is_unchanged, not_written, state_of
from ..progress import tqdm
from .dub import dub
from .source_face import open_trackers, parse_face
from .timeline import BAR

if TYPE_CHECKING:
    from ..model.lipformer import LipFormer
    from .report import DubReport

TABLE = "dubs"  # .csv for people, .json for the next run
COLUMNS = (
    *("video", "audio", "output", "status", "error", "audio_s", "output_s", "frames", "generated", "interpolated"),
    *("passed_through", "seconds", "frames_per_second", "warnings"),
)
NUMBERS = {"start", "end", "reference"}
INPUTS = ("video", "audio", "landmarks")  # and `face`, where it is a picture
LIBRARY_ERRORS = (RuntimeError, ValueError, ArithmeticError, MemoryError, OSError)
SOUND_ENDINGS = {".wav", ".mp3", ".flac", ".m4a", ".aac", ".ogg", ".opus", ".wma", ".aiff", ".aif"}


def dub_batch(
    model: LipFormer,
    listing: str | os.PathLike,
    folder: str | os.PathLike,
    *,
    crf: int = 17,
    mark: bool = False,
    progress: bool = True,
) -> list[dict]:
    """Dub every row of a list into a folder; what an earlier call finished is left alone, where it stopped it goes on.

    Args:
        model: from `lipformer_core.load`.
        listing: CSV with the columns `video` and `audio` (paths from its folder on) and, each if wanted, `output` (a
            name in `folder`), `face` (a picture's path is from the list's folder on, too), `policy`, `start`, `end`,
            `reference` and `landmarks`, as `dub` takes them. Or a folder: each video or picture in it says the sound
            that is called as it is (`anna.mp4`, `anna.wav`).
        folder: where the results appear, each with its report beside it, and the table `dubs.csv`.
        crf, mark: as of `dub`.
        progress: show one bar over all rows.

    Returns:
        The table, a mapping a row. `status` is `dubbed`, `kept` (an earlier call made it of the same files, weights and
        settings) or `failed`, with the error's sentence in `error`; `audio_s` and `output_s` are the seconds of the
        sound and of the result. It is written after every row, and keeps what other lists left in the folder.

    Raises:
        DataError: `listing` is no such CSV, or a folder without any pair.
        OutputError: `folder` cannot be written, another call is at work in it, or a result would replace an input.
        WeightsMissing: no landmark network is present, and some row names no `landmarks`.
    """
    listing, folder = Path(listing), Path(folder)
    if listing.is_dir():
        source, rows = listing, pairs_in(listing)
    else:
        source, rows = listing.parent, read_rows(listing, "video", "audio")
    tracker = None if all(row.get("landmarks") for row in rows) else open_trackers()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_written(folder, error) from error
    given = [listing, *(source / row[key] for row in rows for key in (*INPUTS, "face") if row.get(key))]
    check_outputs([folder / f"{TABLE}.{ending}" for ending in ("csv", "json")], given)
    lengths = [_seconds(source / row["audio"]) for row in rows]
    bar = tqdm(total=round(1000 * sum(lengths)), desc="dubbing", bar_format=BAR, disable=not progress)
    with held(folder / f".{TABLE}.lock"), bar:
        known, common = _known(folder), {"crf": crf, "mark": mark}
        weights, table = fingerprint(model), {}
        for number, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            begun = sum(lengths[:number])

            def told(share: float, begun: float = begun, length: float = length) -> None:
                bar.update(round(1000 * (begun + share * length)) - bar.n)

            name = row.get("output") or f"{Path(row['video']).stem}_says_{Path(row['audio']).stem}.mp4"
            line = {"video": row["video"], "audio": row["audio"], "output": name}
            bar.set_description_str(name)
            try:
                if Path(name).name != name:
                    raise ConfigError(f"output {name}: write a name in {folder}, without a folder of its own")
                if name in table:
                    raise ConfigError(f"{name}: an earlier row is called so; give one of them another `output`")
                check_outputs([folder / name, folder / f"{name}.json"], given)
                inputs = {key: source / row[key] for key in INPUTS if row.get(key)}
                options = _options(row, source) | common
                made_of = [*inputs.values(), *([face] if isinstance(face := options.get("face"), Path) else [])]
                asked = {"inputs": [*map(str, made_of)], "weights": weights, **options}
                asked |= {"face": str(face)} if isinstance(face, Path) else {}
                if _is_kept(known.get(name), folder / name, asked):
                    line = {**known[name], "status": "kept"}
                else:
                    outputs = {"out": folder / name, "report": folder / f"{name}.json"}
                    report = dub(model, **inputs, **outputs, **options, tracker=tracker, progress=told)
                    line |= _figures(report)
                    line |= {"asked": asked, "made_of": [state_of(path) for path in made_of]}
            except LipFormerError as error:
                line |= {"status": "failed", "error": str(error)}
            except LIBRARY_ERRORS as error:  # such as a GPU without memory left: the other rows are none the worse
                line |= {"status": "failed", "error": f"{type(error).__name__}: {error}"}
            table[name if name not in table else f"{name} (row {number + 1})"] = line
            _write(folder, {**known, **table})
            told(1.0)
    return list(table.values())


def pairs_in(folder: Path) -> list[dict[str, str]]:
    """Rows of a list for the videos and pictures of a folder that lie beside a sound of the same name.

    raises DataError where there is no such pair
    """
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    sounds = {path.stem: path.name for path in files if path.suffix.lower() in SOUND_ENDINGS}
    shown = [path.name for path in files if path.suffix.lower() in VIDEO_ENDINGS | IMAGE_ENDINGS]
    rows = [{"video": name, "audio": sounds[Path(name).stem]} for name in shown if Path(name).stem in sounds]
    if not rows:
        raise DataError(f"{folder}: no video or picture beside a sound of the same name, such as anna.mp4 and anna.wav")
    return rows


def _options(row: Mapping[str, str], folder: Path) -> dict:
    """A row's options as `dub` takes them. ConfigError where one cannot be read."""
    given = {key: row[key] for key in ("face", "policy", *NUMBERS) if row.get(key)}
    if "face" in given:
        given["face"] = parse_face(given["face"], folder)
    for key in given.keys() & NUMBERS:
        try:
            given[key] = float(given[key])
        except ValueError as error:
            raise ConfigError(f"{key} {given[key]}: write seconds as a number") from error
    return given


def _figures(report: DubReport) -> dict:
    """What the table says of a dubbing."""
    return {
        "status": "dubbed",
        "audio_s": report.audio_s,
        "output_s": round(report.duration_s, 3),
        "frames": report.frames,
        **{status.replace(" ", "_"): count for status, count in report.statuses.items()},
        "seconds": report.seconds["total"],
        "frames_per_second": report.frames_per_second,
        "warnings": "; ".join(report.warnings),
    }


def _seconds(audio: Path) -> float:
    """Length of a sound, for the progress bar; 0 where it cannot be read, which its own row will say."""
    try:
        return probe(audio).duration_s
    except LipFormerError:
        return 0.0


def _known(folder: Path) -> dict[str, dict]:
    """What earlier calls finished in a folder, by its name."""
    try:
        lines = json.loads((folder / f"{TABLE}.json").read_text())
        return {line["output"]: line for line in lines if "made_of" in line}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _is_kept(line: dict | None, out: Path, asked: dict) -> bool:
    """Whether a result is there, made as it is asked for and of files that have not changed."""
    if line is None or line["asked"] != asked or not out.is_file():
        return False
    files = zip(asked["inputs"], line["made_of"], strict=True)
    return all(os.path.isfile(path) and is_unchanged(path, state) for path, state in files)


def _write(folder: Path, table: Mapping[str, dict]) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.values())
    for ending, text in (("csv", buffer.getvalue()), ("json", json.dumps(list(table.values()), indent=1))):
        with atomic(folder / f"{TABLE}.{ending}") as file:
            file.write(text.encode())
