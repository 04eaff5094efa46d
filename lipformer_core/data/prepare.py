"""Any corpus into the one prepared form (see `clips`): tracked, aligned, cropped, with log-mel, split by person.

Each clip becomes a part file of its own, written atomically; an interrupted run continues with the clips that
have none. When all are there, the parts are joined into tar shards and the manifest appears last.
"""

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..config import Config
from ..errors import DataError, MediaError, NoFaceFound
from ..timing import FPS, SAMPLES_PER_FRAME
from .clips import FORMAT, MANIFEST, PreparedCorpus
from .corpora import ClipSource, list_sources, split_rule

CLIPS_PER_SHARD = 64
SHORTEST = 12  # frames with a face that a clip needs
ARRAYS = {
    "mel": "float32 (n_mel, 80)",
    "landmarks": "float32 (n, 68, 2), crop pixels",
    "transforms": "float64 (n, 2, 3), source pixels to crop pixels",
    "pose": "float32 (n, 3), degrees",
    "opening": "float32 (n,)",
    "width": "float32 (n,)",
    "valid": "bool (n,)",
    "jpeg_offsets": "int64 (n + 1,)",
}
# the settings that change what is written; another value of one of them is another corpus
_RELEVANT = ("seed", "crop_size", "transform_sigma", "jpeg_quality")
_RELEVANT_SYNTHETIC = (
    "synthetic_train",
    "synthetic_val",
    "synthetic_test",
    "synthetic_frames",
    "synthetic_test_frames",
    "synthetic_size",
)


def prepare(
    corpus: str, source: str | Path | None, out: Path | str, config: Config, workers: int = 2, progress: bool = True
) -> PreparedCorpus:
    """Prepare a corpus into the folder `out`, or return it at once if it is there with the same settings.

    corpus, source : as in `corpora.list_sources`
    workers : processes
    raises DataError for a corpus without a usable clip, or if `out` holds a corpus made with other settings
    """
    from joblib import Parallel, delayed

    from ..progress import tqdm

    out = Path(out)
    names = _RELEVANT + (_RELEVANT_SYNTHETIC if corpus == "synthetic" else ())
    settings = {name: getattr(config, name) for name in names}
    settings |= {"corpus": corpus, "source": str(Path(source).resolve()) if source else None}
    if (out / MANIFEST).is_file():
        done = PreparedCorpus(out)
        if done.manifest["settings"] != settings:
            raise DataError(
                f"{out} holds a corpus made with other settings ({_difference(done, settings)}); choose another folder"
            )
        return done
    sources = list_sources(corpus, source, config)
    parts = out / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    _check_settings(parts / "settings.json", settings, out)
    todo = [s for s in sources if not (parts / f"{s.clip_id}.json").is_file()]
    jobs = Parallel(n_jobs=workers, return_as="generator_unordered")(
        delayed(prepare_clip)(s, parts, config) for s in todo
    )
    for _ in tqdm(jobs, total=len(todo), desc="prepare", unit="clip", disable=not progress):
        pass
    rows = [json.loads((parts / f"{s.clip_id}.json").read_text()) for s in sources]
    kept = [row for row in rows if not row["reason"]]
    if not kept:
        reasons = "; ".join(f"{row['clip_id']}: {row['reason']}" for row in rows[:3])
        raise DataError(f"not one of {len(rows)} clips could be used ({reasons} …)")
    clips, shards = _join(kept, parts, out)
    manifest = {
        "format": FORMAT,
        "settings": settings,
        "crop_size": config.crop_size,
        "split_rule": split_rule(corpus, sources),
        "hash": hashlib.sha256("".join(shards.values()).encode()).hexdigest(),
        "shards": shards,
        "clips": clips,
        "dropped": [{k: row[k] for k in ("clip_id", "reason")} for row in rows if row["reason"]],
    }
    _write(out / MANIFEST, json.dumps(manifest, indent=1).encode())
    shutil.rmtree(parts)
    return PreparedCorpus(out)


def prepare_clip(source: ClipSource, parts: Path, config: Config) -> None:
    """Write one clip's part (`<clip>.tar`), and last its row (`<clip>.json`), also for a dropped clip."""
    row = {"clip_id": source.clip_id, "person": source.person, "split": source.split, "n_frames": 0, "reason": None}
    try:
        arrays, jpegs = _synthetic_clip(source, config) if source.synthetic else _video_clip(source, config)
        row["n_frames"] = len(arrays["valid"])
        meta = {k: row[k] for k in ("clip_id", "person", "split", "n_frames")} | {"fps": FPS}
        members = {"json": json.dumps(meta).encode(), "npz": _npz(arrays), "jpegs": b"".join(jpegs)}
        _write(parts / f"{source.clip_id}.tar", _tar(source.clip_id, members))
    except (MediaError, NoFaceFound) as error:
        row["reason"] = f"{type(error).__name__}: {error}"
    _write(parts / f"{source.clip_id}.json", json.dumps(row).encode())


def _synthetic_clip(source: ClipSource, config: Config) -> tuple[dict[str, np.ndarray], list[bytes]]:
    from .synthetic import synthesise_clip

    person, clip, n_frames = source.synthetic
    made = synthesise_clip(config.seed, person, clip, n_frames, config.synthetic_size)
    valid = np.ones(n_frames, bool)
    return _assemble(iter(made.frames), made.landmarks, made.pose, valid, made.audio, config)


def _video_clip(source: ClipSource, config: Config) -> tuple[dict[str, np.ndarray], list[bytes]]:
    from .faces import track_faces
    from .media import read_audio

    audio = read_audio(source.path)
    track = track_faces(frames_at_25(source.path), _tracker())
    if track.valid.sum() < SHORTEST:
        raise NoFaceFound(f"a face in {int(track.valid.sum())} of {len(track.valid)} frames, {SHORTEST} are needed")
    return _assemble(frames_at_25(source.path), track.landmarks, track.pose, track.valid, audio, config)


def frames_at_25(path: str | Path) -> Iterator[np.ndarray]:
    """The frames shown at 0, 1/25, 2/25 … s: uint8 RGB (H, W, 3), whatever the file's own rate."""
    from .media import iter_frames

    count, shown, start, time = 0, None, None, 0.0
    for time, rgb in iter_frames(path):
        start = time if start is None else start
        while shown is not None and count / FPS < time - start - 1e-6:
            yield shown
            count += 1
        shown = rgb
    if shown is not None and count / FPS <= time - start + 1e-6:
        yield shown


@lru_cache(maxsize=1)
def _tracker() -> object:
    from .faces import open_tracker

    return open_tracker()


def _assemble(
    frames: Iterator[np.ndarray],
    landmarks: np.ndarray,
    pose: np.ndarray,
    valid: np.ndarray,
    audio: np.ndarray,
    config: Config,
) -> tuple[dict[str, np.ndarray], list[bytes]]:
    import cv2

    from .alignment import crop_transforms, mouth_shape, transform_points, warp_crop
    from .audio import log_mel

    transforms = crop_transforms(landmarks, valid, config.crop_size, config.transform_sigma)
    quality = [cv2.IMWRITE_JPEG_QUALITY, config.jpeg_quality]
    quality += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    jpegs = []
    for frame, transform, ok in zip(frames, transforms, valid, strict=True):
        crop = (
            warp_crop(frame, transform, config.crop_size) if ok else np.zeros((config.crop_size,) * 2 + (3,), np.uint8)
        )
        jpegs.append(cv2.imencode(".jpg", crop[..., ::-1], quality)[1].tobytes())
    in_crop = np.stack([transform_points(m, p) for m, p in zip(transforms, landmarks, strict=True)])
    opening, width = mouth_shape(in_crop)
    n_samples = len(valid) * SAMPLES_PER_FRAME
    audio = np.pad(audio[:n_samples], (0, max(0, n_samples - len(audio))))
    arrays = {
        "mel": log_mel(audio).astype(np.float32),
        "landmarks": in_crop.astype(np.float32),
        "transforms": transforms.astype(np.float64),
        "pose": np.asarray(pose, np.float32),
        "opening": opening.astype(np.float32),
        "width": width.astype(np.float32),
        "valid": np.asarray(valid, bool),
        "jpeg_offsets": np.cumsum([0, *map(len, jpegs)]).astype(np.int64),
    }
    return arrays, jpegs


# --- files ----------------------------------------------------------------------------------------
def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # fixed zip dates: byte-identical on every run
    return buffer.getvalue()


def _tar(clip_id: str, members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for ending, data in members.items():
            info = tarfile.TarInfo(f"{clip_id}.{ending}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _join(rows: list[dict], parts: Path, out: Path) -> tuple[list[dict], dict[str, str]]:
    """Join parts into shards, in the sources' order; returns the manifest's clips and the shards' hashes."""
    clips, shards = [], {}
    for split in ("train", "val", "test"):
        own = [row for row in rows if row["split"] == split]
        for number, first in enumerate(range(0, len(own), CLIPS_PER_SHARD)):
            shard = f"{split}-{number:05d}.tar"
            temporary = out / f".{shard}.tmp"
            with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as joined:
                for row in own[first : first + CLIPS_PER_SHARD]:
                    with tarfile.open(parts / f"{row['clip_id']}.tar") as part:
                        for member in part.getmembers():
                            joined.addfile(member, part.extractfile(member))
            with tarfile.open(temporary) as joined:
                at = {m.name: (m.offset_data, m.size) for m in joined.getmembers()}
            for row in own[first : first + CLIPS_PER_SHARD]:
                offsets = {ending: at[f"{row['clip_id']}.{ending}"] for ending in ("json", "npz", "jpegs")}
                clips.append({k: row[k] for k in ("clip_id", "person", "split", "n_frames")})
                clips[-1] |= {"shard": shard, "offsets": offsets}
            with temporary.open("rb") as f:
                shards[shard] = hashlib.file_digest(f, "sha256").hexdigest()
            os.replace(temporary, out / shard)
    return clips, shards


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def _check_settings(path: Path, settings: dict, out: Path) -> None:
    if path.is_file() and json.loads(path.read_text()) != settings:
        raise DataError(f"{out} holds an unfinished corpus with other settings; finish it or choose another folder")
    _write(path, json.dumps(settings).encode())


def _difference(done: PreparedCorpus, settings: dict) -> str:
    old = done.manifest["settings"]
    names = [k for k in sorted({*old, *settings}) if old.get(k) != settings.get(k)]
    return ", ".join(f"{k}: {old.get(k)} there, {settings.get(k)} asked" for k in names)
