"""One self-contained HTML page of a run: key numbers, every notebook's figures under their headings, times, video."""

import base64
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import nbformat

from lipformer_core.evaluation.report import BY_YAW, COLUMNS, score_cells
from lipformer_core.files import atomic

from .experiment import HERE, Experiment, Step
from .gather import KEYS, variant_table

EMBED_BYTES = 4_000_000  # videos up to this size travel inside the page, larger ones are linked
IMAGES = ("image/png", "image/jpeg")
# of an evaluation's folder: the paper's two figures of results, and short videos
FIGURES = {
    "strip_*.png": "Frames in order of time; the widest mouth large",
    "exchange.png": "Exchanged sound",
    "opening_*.png": "Lip opening over time",
}
FILMS = {"film_own_sound.mp4": "filmed, and generated", "film_exchanged_sound.mp4": "another person's sound"}


@dataclass
class Section:
    """A heading of a notebook and the figures drawn under it."""

    title: str
    level: int
    anchor: str
    figures: list[str] = field(default_factory=list)  # data: URLs


def write_report(experiment: Experiment, steps: list[Step], state: dict, numbers: dict, out: Path) -> Path:
    """Write `out/report.html` and return its path."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = _number
    page = environment.get_template("report.html.j2").render(
        experiment=experiment,
        keys=KEYS,
        numbers=numbers,
        others=_others(numbers),
        ablation=variant_table(steps, numbers),
        tables=_tables(steps, numbers),
        pictures=_pictures(steps, out),
        notebooks=[_notebook(step, state, out) for step in steps],
        videos=_videos(numbers, out) + _films(steps, out),
        facts={k.removeprefix("run."): v for k, v in numbers.items() if k.startswith("run.") and v is not None
               and not k.endswith(".why")},
    )  # fmt: skip
    path = out / "report.html"
    with atomic(path) as file:
        file.write(page.encode())
    return path


def sections(notebook: nbformat.NotebookNode, prefix: str = "") -> list[Section]:
    """The notebook's markdown headings in order, each with the figures that its code cells drew below it."""
    found = [Section("", 1, f"{prefix}-0")]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            text = re.sub(r"^(```|~~~).*?^\1", "", cell.source, flags=re.MULTILINE | re.DOTALL)
            for marks, title in re.findall(r"^(#{1,6})\s+(.+?)\s*#*\s*$", text, flags=re.MULTILINE):
                found.append(Section(_plain(title), len(marks), f"{prefix}-{len(found)}"))
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            kind = next((k for k in IMAGES if k in data), None)
            if kind:
                found[-1].figures.append(f"data:{kind};base64,{''.join(data[kind].split())}")
    return [section for section in found if section.title or section.figures]


def _notebook(step: Step, state: dict, out: Path) -> dict:
    copy = out / "notebooks" / f"{step.name}.ipynb"
    entry = state.get(step.name, {})
    parts = sections(nbformat.read(copy, as_version=4), step.name) if copy.is_file() else []
    title = step.name
    if parts and parts[0].level == 1 and parts[0].title:
        title = parts[0].title
        title += f" ({step.label})" if step.variant else ""
        parts = parts[1:] if not parts[0].figures else parts
    status = "finished" if entry.get("finished") else "failed" if entry.get("error") else "not executed"
    return {
        "name": step.name,
        "title": title,
        "sections": parts,
        "status": status,
        "error": entry.get("error"),
        "seconds": entry.get("seconds"),
        "parameters": {k: v for k, v in step.parameters.items() if k not in ("work", "results")},
        "link": copy.relative_to(out).as_posix() if copy.is_file() else None,
    }


def _tables(steps: list[Step], numbers: dict) -> list[dict]:
    """Every row and column of each evaluation, and the mouths by yaw: label, caption, headings, rows of cells."""
    tables = []
    for label in dict.fromkeys(step.label for step in steps):
        prefix = f"{label}." if label else ""
        for columns in (COLUMNS, BY_YAW) if f"{prefix}n_clips" in numbers else ():
            headings, rows = score_cells(numbers, columns, prefix)
            clips, people, frames = (numbers[f"{prefix}n_{what}"] for what in ("clips", "persons", "frames"))
            caption = f"{clips} clips of {people} people, {frames} frames, data {numbers[f'{prefix}data_hash'][:12]}"
            if rows:
                tables.append({"label": label, "caption": caption, "headings": headings, "rows": rows})
    return tables


def _evaluated(steps: list[Step], out: Path, patterns: dict[str, str]) -> list[tuple[str, Path]]:
    """Files of the run's evaluations, by pattern: caption and path."""
    works = dict.fromkeys(Path(step.parameters.get("work", out / "work")) for step in steps)
    folders = [folder for work in works for folder in sorted(work.glob("evaluation*"))]
    return [(text, path) for folder in folders for name, text in patterns.items() for path in sorted(folder.glob(name))]


def _pictures(steps: list[Step], out: Path) -> list[dict]:
    found = _evaluated(steps, out, FIGURES)
    return [{"caption": text, "source": _data_url(path, "image/png")} for text, path in found]


def _films(steps: list[Step], out: Path) -> list[dict]:
    found = _evaluated(steps, out, FILMS)
    return [{"name": text, "source": _data_url(path, "video/mp4"), "path": path.name} for text, path in found]


def _data_url(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _videos(numbers: dict, out: Path) -> list[dict]:
    """Videos under `video.<name>`; paths are absolute or relative to the run folder or its work folder."""
    videos = []
    for key, value in numbers.items():
        if not key.startswith("video.") or key.endswith(".why") or not isinstance(value, str):
            continue
        candidates = [Path(value)] if Path(value).is_absolute() else [out / value, out / "work" / value]
        path = next((p for p in candidates if p.is_file()), None)
        source = None
        if path and path.stat().st_size <= EMBED_BYTES:
            source = _data_url(path, "video/mp4")
        elif path:
            source = Path(os.path.relpath(path, out)).as_posix()
        videos.append({"name": key.removeprefix("video."), "source": source, "path": value})
    return videos


def _others(numbers: dict) -> dict[str, dict[str, object]]:
    """Further numbers, grouped by the first part of their name."""
    groups: dict[str, dict[str, object]] = {}
    for key, value in numbers.items():
        group = key.partition(".")[0]
        if key not in KEYS and not key.endswith(".why") and group not in ("run", "seconds", "video"):
            groups.setdefault(group, {})[key] = value
    return groups


def _plain(markdown: str) -> str:
    """A heading without links, code marks and emphasis."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", markdown)
    return re.sub(r"[`*]|\$", "", text).strip()


def _number(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"
    return str(value)
