"""A prepared corpus made small for a machine that is lent for minutes, and made whole there.

`python -m papermill_runs.portable pack CORPUS FILE` and `… unpack FILE CORPUS`. Crops of film travel as H.264, pictures
as WebP, sound features as one byte, so a corpus shrinks to about a tenth and is no longer the same to the bit (crops at
about 40 dB). The unpacked corpus keeps the hash of the one it was packed from: a training goes on from the same state
on either machine. Unpacking needs NumPy, OpenCV and pydantic alone.
"""

import io
import json
import lzma
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lipformer_core.data.prepared.clips import MANIFEST, Clip, PreparedCorpus, clip_infos, decode
from lipformer_core.data.prepared.prepare import SHARD_BYTES
from lipformer_core.data.prepared.shards import encode_crop, join, remove_folder, write_part
from lipformer_core.files import atomic, write_json

CRF = 16  # of H.264
WEBP = 85
STEPS = 12  # of a sound feature in one byte: +-10.6
SPEECH = ("speech", "speech_before", "speech_after")
HALVED = ("mel", "mel_before", "mel_after", "landmarks")  # float16 on the way


def pack(corpus: Path | str, out: Path | str, splits: tuple[str, ...] = ("train", "val")) -> None:
    """Pack some splits of a prepared corpus into one file. DataError for a bad corpus."""
    source = PreparedCorpus(corpus)
    infos = [info for info in clip_infos(source.manifest) if info.split in splits]
    clips = [source.open(info.clip_id) for info in infos]
    content = io.BytesIO()
    np.savez(
        content, **{f"{i}/{name}": _less(name, value) for i, c in enumerate(clips) for name, value in c.arrays.items()}
    )
    kept = {key: value for key, value in source.manifest.items() if key not in ("clips", "shards", "files")}
    kept |= {"infos": [vars(info) for info in infos], "metadata": [clip.metadata for clip in clips]}
    pictures = (_webp(c.frames([0])[0]) for c in clips if c.info.still)
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder, "film.mp4")
        filmed = [clip for clip in clips if not clip.info.still]
        if filmed:
            _film(filmed, source.crop_size, film)
        with atomic(Path(out)) as file, tarfile.open(fileobj=file, mode="w") as tar:
            _add(tar, "manifest.xz", lzma.compress(json.dumps(kept).encode()))
            _add(tar, "arrays.xz", lzma.compress(content.getvalue(), preset=4))
            for number, picture in enumerate(pictures):
                _add(tar, f"{number}.webp", picture)
            if filmed:
                tar.add(film, film.name)


def unpack(file: Path | str, corpus: Path | str) -> None:
    """Make a packed file a prepared corpus again, in a folder that appears when it is complete."""
    corpus = Path(corpus)
    with tempfile.TemporaryDirectory(dir=corpus.parent) as scratch, tarfile.open(file) as tar:
        parts, whole = Path(scratch, "parts"), Path(scratch, "whole")
        parts.mkdir()
        whole.mkdir()
        tar.extractall(scratch, filter="data")
        kept = json.loads(lzma.decompress(Path(scratch, "manifest.xz").read_bytes()))
        arrays = np.load(io.BytesIO(lzma.decompress(Path(scratch, "arrays.xz").read_bytes())))
        names: dict[int, list[str]] = {}
        for name in arrays.files:
            number, name = name.split("/")
            names.setdefault(int(number), []).append(name)
        infos, metadata = kept.pop("infos"), kept.pop("metadata")
        frames = _frames(Path(scratch, "film.mp4"))
        stills = (decode(Path(scratch, f"{n}.webp").read_bytes()) for n in range(len(infos)))
        listed = []
        for number, (info, about) in enumerate(zip(infos, metadata, strict=True)):
            own = {name: _more(name, arrays[f"{number}/{name}"]) for name in names[number]}
            crops = [next(stills if info["still"] else frames) for _ in range(info["n_frames"])]
            encoded = [encode_crop(crop, 95) for crop in crops]
            own["crop_offsets"] = np.cumsum([0, *map(len, encoded)]).astype(np.int64)
            joined = b"".join(encoded)
            write_part(parts / f"{number}.tar", [(about, own, (0, len(joined)))], io.BytesIO(joined))
            listed.append((str(number), {**info, "bytes": len(joined)}))
        placed, shards = join(listed, parts, whole, SHARD_BYTES)
        write_json(whole / MANIFEST, {**kept, "shards": shards, "clips": [vars(info) for info in placed]})
        remove_folder(parts)
        whole.rename(corpus)


def _film(clips: list[Clip], size: int, path: Path) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": str(CRF)})
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for clip in clips:
            for crop in clip.frames(range(clip.info.n_frames)):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(crop, format="rgb24")))
        container.mux(stream.encode())


def _webp(rgb: np.ndarray) -> bytes:
    import cv2

    return cv2.imencode(".webp", rgb[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, WEBP])[1].tobytes()


def _frames(path: Path) -> Iterator[np.ndarray]:
    import cv2

    film = cv2.VideoCapture(str(path))
    while (found := film.read())[0]:
        yield found[1][..., ::-1]


def _less(name: str, values: np.ndarray) -> np.ndarray:
    if name in SPEECH:
        return np.clip(np.round(values.astype(np.float32) * STEPS), -127, 127).astype(np.int8)
    return values.astype(np.float16) if name in HALVED else values


def _more(name: str, values: np.ndarray) -> np.ndarray:
    if name in SPEECH:
        return (values.astype(np.float32) / STEPS).astype(np.float16)
    return values.astype(np.float32) if name in HALVED else values


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


if __name__ == "__main__":
    {"pack": pack, "unpack": unpack}[sys.argv[1]](*sys.argv[2:4])
