"""Every filmed person and portrait at hand says what another one says, by one `dub_batch`, and a table of what came.

`LIPFORMER_CLIPS=… python -m papermill_runs.dub_everything OUT` pairs each clip and portrait of the MEDIA.csv beside
LIPFORMER_CLIPS, and each file of the folder `inputs` there, with the sound of another person half the list away.
Of a clip the first CLIP_S seconds are dubbed with the policy `cut`, of the many clips in folders below LIPFORMER_CLIPS
the first SAMPLE_S; what is not in the CSV as a clip gets a sound of at most CLIP_S and is dubbed to its end. OUT then
holds what `lipformer dub-batch` leaves, and the list; the same command goes on where it was stopped.
"""

import csv
import os
import sys
from collections import Counter, defaultdict
from pathlib import Path

import lipformer_core as lf
from lipformer_core.data.corpora.clip_list import read_rows
from lipformer_core.data.corpora.layout import IMAGE_ENDINGS, VIDEO_ENDINGS
from lipformer_core.data.media import probe
from lipformer_core.dubbing.batch import dub_batch
from lipformer_core.errors import LipFormerError

CLIP_S, SAMPLE_S = 2.0, 0.4
COLUMNS = ("video", "audio", "output", "policy", "end")


def pairs(media: Path) -> list[dict[str, str]]:
    """The list for `dub_batch`: a line a clip, portrait or odd file beside the CSV `media`; small folders come first.

    raises DataError as `read_rows`
    """
    rows = read_rows(media, "file", "person", "split", "duration_s")
    odd = [f for f in sorted((media.parent / "inputs").glob("*")) if f.suffix.lower() in IMAGE_ENDINGS | VIDEO_ENDINGS]
    rows += [{"file": f"inputs/{f.name}", "person": "", "split": "odd", "duration_s": ""} for f in odd]
    lines = []
    for number, row in enumerate(rows):
        if row["split"] == "speech":
            continue
        later = (rows[(number + len(rows) // 2 + step) % len(rows)] for step in range(len(rows)))
        voices = (r for r in later if r["split"] in {"clip", "speech"} and r["person"] != row["person"])
        clip = row["split"] == "clip"
        voice = next(r for r in voices if clip or float(r["duration_s"]) <= CLIP_S)
        lines.append(
            {
                "video": str(media.parent / row["file"]),
                "audio": str(media.parent / voice["file"]),
                "output": row["file"].replace("/", "_") + ".mp4",
                "policy": "cut" if clip else "",
                "end": str(SAMPLE_S if row["file"].count("/") > 1 else CLIP_S) if clip else "",
            }
        )
    sizes = Counter(Path(line["video"]).parent for line in lines)
    return sorted(lines, key=lambda line: sizes[Path(line["video"]).parent])


def summary(table: list[dict]) -> str:
    """Markdown: a line a folder of sources, and the sentence of each refusal."""
    groups, said = defaultdict(list), []
    for line in table:
        groups[Path(line["video"]).parent.name].append(line)
    found = [
        "| from | dubbed | refused | seconds | frames: generated, interpolated, passed through | "
        "furthest from the sound's length, frames | cut | frames/s | warned of |",
        "| --- " * 9 + "|",
    ]
    for name, lines in groups.items():
        done = [line for line in lines if line["status"] != "failed"]
        said += [f"- `{Path(x['video']).name}`: {x['error']}" for x in lines if x["status"] == "failed"]
        counts = (sum(x.get(s, 0) for x in done) for s in ("generated", "interpolated", "passed_through"))
        off, cut = zip(*[_off(x) for x in done], strict=True) if done else ((0,), (0,))
        frames, seconds = (sum(x[key] for x in done) for key in ("frames", "seconds"))
        warned = Counter(bool(x["warnings"]) for x in done)[True]
        found.append(
            f"| {name} | {len(done)} | {len(lines) - len(done)} | {sum(x['output_s'] for x in done):.0f} | "
            f"{', '.join(map(str, counts))} | {max(off):.2f} | {sum(cut)} | "
            f"{frames / max(seconds, 1e-9):.1f} | {warned} |"
        )
    return "\n".join([*found, "", *said])


def _off(line: dict) -> tuple[float, bool]:
    """How many frames longer or shorter than its sound a result is to a player, and whether it was to be cut."""
    made = probe(line["out"])
    cut = line["asked"].get("policy") == "cut"
    wanted = min(line["audio_s"], line["asked"]["end"], probe(line["video"]).pictures_s) if cut else line["audio_s"]
    return abs(made.pictures_s - wanted) * float(made.fps), cut


def write_list(out: Path, lines: list[dict[str, str]]) -> Path:
    """`out`/list.csv for `dub_batch`, a line each; the folder is made."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "list.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    return path


def main(out: Path) -> None:
    """Write the list, dub it, and print the table."""
    lines = pairs(Path(os.environ["LIPFORMER_CLIPS"]).parent / "MEDIA.csv")
    table = dub_batch(lf.load(device="cpu"), write_list(out, lines), out)
    print(summary([line | {"out": out / line["output"]} for line in table]))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except LipFormerError as error:
        sys.exit(f"error: {error}")
