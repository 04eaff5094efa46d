"""A stage's curves: `log.csv` for notebooks and tests, the same rows for TensorBoard."""

import csv
import math
from pathlib import Path

from ..files import replaced

LOG, BOARD = "log.csv", "tensorboard"
NAMES = ("step", "name", "value")


class Journal:
    """Writes the rows of a stage that stands at step `start`; rows of later steps, from a run cut off, are dropped."""

    def __init__(self, folder: Path, start: int):
        from torch.utils.tensorboard import SummaryWriter

        self.path = folder / LOG
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _forget_after(self.path, start)
        self.board = SummaryWriter(folder / BOARD, purge_step=start + 1)

    def write(self, step: int, row: dict[str, float]) -> None:
        """One row, in long form (step, name, value): validation figures come in some rows only."""
        new = not self.path.is_file()
        with self.path.open("a", newline="") as f:
            writer = csv.writer(f)
            if new:
                writer.writerow(NAMES)
            writer.writerows([step, name, f"{value:.6g}"] for name, value in row.items())
        for name, value in row.items():
            self.board.add_scalar(name, value, step)

    def close(self) -> None:
        """Bring everything to the disk."""
        self.board.close()


def read_log(folder: Path) -> dict[str, list[float]]:
    """The stage's curves: column name to values; NaN where a row has no such figure."""
    with (Path(folder) / LOG).open() as f:
        rows = [(row["step"], row["name"], row["value"]) for row in csv.DictReader(f)]
    steps = sorted({int(step) for step, _, _ in rows})
    at = {step: i for i, step in enumerate(steps)}
    columns: dict[str, list[float]] = {"step": [float(s) for s in steps]}
    for step, name, value in rows:
        columns.setdefault(name, [math.nan] * len(steps))[at[int(step)]] = float(value)
    return columns


def _forget_after(path: Path, step: int) -> None:
    if not path.is_file():
        return
    with path.open() as f:
        rows = [row for row in csv.DictReader(f) if row["value"] is not None and int(row["step"]) <= step]
    with replaced(path) as temporary, temporary.open("w", newline="") as f:
        writer = csv.DictWriter(f, NAMES)
        writer.writeheader()
        writer.writerows(rows)
