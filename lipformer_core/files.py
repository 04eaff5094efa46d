"""Files that appear under their name only when complete, whether they can, and what tells that one has changed."""

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import combinations, product
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from .errors import OutputError

try:
    import fcntl
except ImportError:  # Windows: nothing is locked, so nothing is swept
    fcntl = None

KEPT = 32  # characters of a file's name in the name of the hidden file beside it; names end at 255 bytes
TOKEN = "[0-9a-f]" * 32


def media_url(path: Path) -> str:
    """A path as FFmpeg takes it: of `12:30.mp4` alone it would think that 12 is a protocol."""
    return f"file:{path}"


def check_outputs(outputs: Sequence[Path], inputs: Sequence[Path]) -> None:
    """Raise OutputError unless each output can be written, and none is an input or another output.

    Links and different spellings of a name count as the same file.
    """
    for output, given in product(outputs, inputs):
        if _same(output, given):
            raise OutputError(f"{output}: the output would replace the input {given}; choose another name")
    for one, other in combinations(outputs, 2):
        if _same(one, other):
            raise OutputError(f"{one}: given as the name of two outputs; choose another name for one of them")
    for output in outputs:
        check_writable(output)


def check_writable(path: Path) -> None:
    """Raise OutputError unless a file can appear under this name; folders that do not exist count as ones to make."""
    try:
        with suppress(FileNotFoundError):
            kind = os.stat(path).st_mode
            if stat.S_ISDIR(kind):
                raise OutputError(f"{path}: is a folder; name a file in it")
            if not stat.S_ISREG(kind):
                raise OutputError(f"{path}: is a device or a pipe, which cannot be replaced; name a file")
        folder = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
        probe = hidden_beside(folder / path.name, ".tmp")
        try:
            probe.touch(exist_ok=False)
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise not_written(path, error) from error


def not_written(path: Path, error: Exception) -> OutputError:
    """The error for a file that could not be written, from the one that the system or FFmpeg gave."""
    why = getattr(error, "strerror", None) or str(error)
    return OutputError(f"{path}: cannot be written ({why}); make room or choose another place")


def hidden_beside(path: Path, ending: str) -> Path:
    """A name of its own for what is to become `path`, should two processes write the same."""
    return path.with_name(f".{path.name[:KEPT]}.{uuid4().hex}{ending}")


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """A new, empty file that `sweep` leaves alone as long as this block, or its process, lasts."""
    file = _lock_new(path)
    try:
        yield
    finally:
        os.close(file)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """A file, made where it is missing, that nobody else may hold as long as this block, or its process, lasts.

    raises OutputError: somebody holds it
    """
    if fcntl is None:
        yield
        return
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            why = "another process is at work on this output; wait for it or name another one"
            raise OutputError(f"{path.parent}: {why}") from error
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(file)


def sweep(folder: Path, ending: str) -> None:
    """Remove from `folder` the hidden files of this ending that no living process has `claimed`."""
    if fcntl is None:
        return
    for path in folder.glob(f".*.{TOKEN}{ending}"):
        with suppress(OSError):  # claimed, or another's, or gone
            file = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(file)


def _lock_new(path: Path) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        if fcntl is None:
            return file
        with suppress(OSError):  # a file system without locks; nothing can be swept there either
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file).st_nlink:
            return file
        os.close(file)  # swept before it was locked


def _same(one: Path, other: Path) -> bool:
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    return os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other)


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under its name when the block ends without an exception, and not at all otherwise."""
    with replaced(path) as temporary, temporary.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A name beside `path` for a file that takes its place when the block ends without an exception."""
    temporary = hidden_beside(path, ".tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed process left of `atomic` files in `folder`; nobody may be writing there."""
    for path in folder.glob(f".*.{TOKEN}.tmp"):
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
