"""Files that appear under their name only when they are complete, and what tells that one has changed."""

import hashlib
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


def state_of(path: str | Path) -> list:
    """What tells later whether a file is still the same: [bytes, nanoseconds of its date, SHA-256]."""
    facts = os.stat(path)
    return [facts.st_size, facts.st_mtime_ns, _digest(path)]


def is_unchanged(path: str | Path, state: list) -> bool:
    """Whether a file is what it was at `state_of`. It is read only where its date alone differs, as after copying."""
    facts = os.stat(path)
    size, date, digest = state
    return facts.st_size == size and (facts.st_mtime_ns == date or _digest(path) == digest)


def _digest(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: object) -> None:
    """Write JSON, making its folder; a reader sees the old file or the new one, never half of one.

    raises ValueError for NaN and infinity, which JSON has not; OSError if the file cannot be written
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as file:
        file.write((json.dumps(value, indent=2, allow_nan=False) + "\n").encode())
