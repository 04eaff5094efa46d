"""What became of every source of a corpus: kept, trimmed or dropped, why, and what was measured and spent."""

import csv
import io
import json
from pathlib import Path

from ...files import atomic

CSV, JSON_LINES = "report.csv", "report.jsonl"
COLUMNS = ("clip_id", "person", "split", "status", "reason", "clips", "frames", "video_seconds", "compute_seconds")


def write_report(out: Path, rows: list[dict]) -> None:
    """Write report.csv, a line a source, and report.jsonl with the ranges of every trimming, into `out`."""
    lines = [_line(row) for row in rows]
    measured = sorted({name for line in lines for name in line["measured"]})
    buffer = io.StringIO(newline="")
    table = csv.DictWriter(buffer, [*COLUMNS, *measured], lineterminator="\n")
    table.writeheader()
    for line in lines:
        table.writerow({k: line[k] for k in COLUMNS} | line["measured"])
    for name, text in ((CSV, buffer.getvalue()), (JSON_LINES, "".join(json.dumps(line) + "\n" for line in lines))):
        with atomic(out / name) as file:
            file.write(text.encode())


def read_report(folder: Path | str) -> list[dict]:
    """The rows of a prepared corpus's report, in the corpus's order; none where there is no report.

    Each has the COLUMNS (`compute_seconds` is processor time, of one core),
    `trimmed` (a list of `first`, `last`, `reason`; frames at 25 frames/s) and `measured`.
    """
    path = Path(folder) / JSON_LINES
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _line(row: dict) -> dict:
    status = "dropped" if not row["clips"] else "trimmed" if row["trimmed"] else "kept"
    reason = row["reason"] or "; ".join(sorted({cut["reason"] for cut in row["trimmed"]}))
    return {
        **{k: row[k] for k in ("clip_id", "person", "split")},
        "status": status,
        "reason": reason,
        "clips": len(row["clips"]),
        "frames": sum(clip["n_frames"] for clip in row["clips"]),
        **{k: row[k] for k in ("video_seconds", "compute_seconds", "trimmed")},
        "measured": {k: v for k, v in row["measured"].items() if k not in COLUMNS},
    }
