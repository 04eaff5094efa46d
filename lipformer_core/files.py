"""Files that appear under their name only when they are complete."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under its name when the block ends without an exception, and not at all otherwise."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")  # its own, should two processes write the same
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed process left of `atomic` files in `folder`; nobody may be writing there."""
    for path in folder.glob(f".*.{'[0-9a-f]' * 32}.tmp"):
        path.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write JSON, making its folder; a reader sees the old file or the new one, never half of one.

    raises ValueError for NaN and infinity, which JSON has not; OSError if the file cannot be written
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as file:
        file.write((json.dumps(value, indent=2, allow_nan=False) + "\n").encode())
