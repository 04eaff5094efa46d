"""The prepared form, write side: crops one after the other into a file, clips into a part, parts into tar shards.

Everything appears under its name only when it is complete; equal input gives equal bytes, whoever wrote it and when.
"""

import errno
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ...errors import DataError
from ...files import atomic, write_json
from .clips import ClipInfo

SPLITS = ("train", "val", "test")
PartClip = tuple[dict, dict[str, np.ndarray], tuple[int, int]]  # as `write_part` takes it
FRAMES_PER_SHARD = 4_096  # at most, so that small corpora too have shards for several readers
ENDINGS = ("json", "npz", "crops")
IN_MANIFEST = ("clip_id", "person", "split", "n_frames", "source", "first_frame", "still", "runs")
_CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR,
                 errno.EEXIST, errno.EIO}  # fmt: skip


@contextmanager
def writing(where: Path) -> Iterator[None]:
    """Turn the system's refusal to write (disk full, read-only, no rights, no folder) into a DataError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise
        raise DataError(
            f"{where}: cannot write ({error.strerror}); make room or choose another folder, and run again: "
            "what is finished is kept"
        ) from error


def encode_crop(rgb: np.ndarray, quality: int) -> bytes:
    """One crop as a JPEG (4:4:4). rgb: uint8 (S, S, 3); quality: 1-100."""
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return cv2.imencode(".jpg", rgb[..., ::-1], options)[1].tobytes()


def write_part(path: Path, clips: Iterable[PartClip], crops: BinaryIO) -> None:
    """Write the clips of one source into a tar of their own, the crops copied out of the file `crops`.

    clips : metadata, arrays, and (first byte, length) of the crops in that file
    """
    with atomic(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for metadata, arrays, (start, length) in clips:
            name, buffer = metadata["clip_id"], io.BytesIO()
            np.savez(buffer, **arrays)  # fixed zip dates: byte-identical on every run
            for ending, content in (("json", json.dumps(metadata).encode()), ("npz", buffer.getvalue())):
                tar.addfile(_member(f"{name}.{ending}", len(content)), io.BytesIO(content))
            crops.seek(start)
            tar.addfile(_member(f"{name}.crops", length), crops)


def join(
    clips: list[tuple[str, dict]], parts: Path, out: Path, max_bytes: int
) -> tuple[list[ClipInfo], dict[str, str]]:
    """Join parts into shards, in the clips' order; returns the clips, and the shards' SHA-256 by name.

    A finished shard leaves a note in `parts` and its parts are removed, so that the disk holds the corpus once and
    one shard more; an interrupted call goes on where it stopped.

    clips : name of the part and metadata of each clip, the clips of a part together
    max_bytes : of crops in a shard; a larger clip has a shard of its own
    """
    infos, hashes = [], {}
    last_of = {part: clip["clip_id"] for part, clip in clips}
    for name, members in _plan(clips, max_bytes):
        note = parts / f"{name}.json"
        if not note.is_file():
            written = _write_shard(out / name, members, parts)
            with (out / name).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            write_json(note, {"sha256": digest, "clips": [asdict(info) for info in written]})
        for part, clip in members:
            if last_of[part] == clip["clip_id"]:
                (parts / f"{part}.tar").unlink(missing_ok=True)
        content = json.loads(note.read_text())
        hashes[name] = content["sha256"]
        infos += [ClipInfo(**clip) for clip in content["clips"]]
    return infos, hashes


def _plan(clips: list[tuple[str, dict]], max_bytes: int) -> Iterator[tuple[str, list[tuple[str, dict]]]]:
    for split in SPLITS:
        number, members, frames, size = 0, [], 0, 0
        for part, clip in clips:
            if clip["split"] != split:
                continue
            frames, size = frames + clip["n_frames"], size + clip["bytes"]
            if members and (frames > FRAMES_PER_SHARD or size > max_bytes):
                yield f"{split}-{number:05d}.tar", members
                number, members, frames, size = number + 1, [], clip["n_frames"], clip["bytes"]
            members.append((part, clip))
        if members:
            yield f"{split}-{number:05d}.tar", members


def _write_shard(path: Path, members: list[tuple[str, dict]], parts: Path) -> list[ClipInfo]:
    infos = []
    with atomic(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as joined:
        for name, group in groupby(members, key=itemgetter(0)):
            with tarfile.open(parts / f"{name}.tar") as part:
                for _, clip in group:
                    offsets = {}
                    for ending in ENDINGS:
                        member = part.getmember(f"{clip['clip_id']}.{ending}")
                        offsets[ending] = (joined.offset + tarfile.BLOCKSIZE, member.size)
                        joined.addfile(member, part.extractfile(member))
                    infos.append(ClipInfo(**{k: clip[k] for k in IN_MANIFEST}, shard=path.name, offsets=offsets))
    return infos


def _member(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)  # its date, owner and rights are constants
    info.size = size
    return info


def remove_folder(folder: Path) -> None:
    """Remove a folder, though a worker of a killed run may still be writing its last file there."""
    for _ in range(5):
        if not folder.exists():
            return
        shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        shutil.rmtree(folder)
