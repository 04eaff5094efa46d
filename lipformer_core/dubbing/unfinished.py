"""What a dubbing that is stopped has finished: in a hidden folder beside its output, where the same command goes on."""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import ExitStack
from glob import escape
from pathlib import Path
from types import TracebackType

import numpy as np

from ..data.faces.tracking import FaceTrack
from ..data.media import Damage
from ..errors import LipFormerError, OutputError
from ..files import KEPT, atomic, held, not_written

STRETCH = 240  # frames that are kept together: about what x264 puts behind one key frame anyway


class Unfinished:
    """The face's track and the finished stretches of a result, in a folder named by the output and what it is made of.

    Used as a context manager. The folder goes with success, and with it what other commands left of the same output; it
    goes too where nothing is finished yet and where an input is at fault, which will not get better.
    """

    def __init__(self, out: Path, made_of: object) -> None:
        """made_of : what decides about the frames, for JSON; where it differs, nothing is taken over."""
        name, key = (hashlib.sha256(text.encode()) for text in (out.name, json.dumps(made_of, default=str)))
        self._beside = f".{out.name[:KEPT]}.{name.hexdigest()[:8]}"
        self.folder = out.with_name(f"{self._beside}{key.hexdigest()[:24]}.unfinished")

    def __enter__(self) -> Unfinished:
        self._end = ExitStack()
        try:
            self.folder.mkdir(exist_ok=True)
            self._end.enter_context(held(self.folder / "lock"))
        except OSError as error:
            raise not_written(self.folder, error) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with self._end:
            if kind is None:
                for folder in self.folder.parent.glob(f"{escape(self._beside)}*.unfinished"):
                    _remove(folder, mine=folder == self.folder)
            elif not self.finished or (isinstance(error, LipFormerError) and not isinstance(error, OutputError)):
                _remove(self.folder, mine=True)

    @property
    def finished(self) -> int:
        """Number of stretches, from the first on, that are finished."""
        number = 0
        while self.stretch(number).is_file() and self._looks(number).is_file():
            number += 1
        return number

    def stretch(self, number: int) -> Path:
        """Where the pictures of a stretch are written to; a file there is finished."""
        return self.folder / f"{number:06}.mp4"

    def save_looks(self, number: int, looks: dict[int, bytes]) -> None:
        """Keep what `CoverCheck` has seen in a stretch; to be called before the stretch is finished."""
        pixels = np.array([np.frombuffer(look, np.uint8) for look in looks.values()])
        self._save(self._looks(number), index=np.array([*looks], int), pixels=pixels)

    def load_looks(self, number: int) -> dict[int, bytes]:
        """What `save_looks` kept."""
        with np.load(self._looks(number)) as kept:
            return dict(zip(kept["index"].tolist(), map(bytes, kept["pixels"]), strict=True))

    def save_track(self, times: np.ndarray, track: FaceTrack, damage: Damage) -> None:
        """Keep what `follow` found."""
        self._save(self._track, times=times, damage=json.dumps(vars(damage)), **vars(track))

    def load_track(self) -> tuple[np.ndarray, FaceTrack, Damage] | None:
        """What `save_track` kept; None where that is nothing."""
        if not self._track.is_file():
            return None
        with np.load(self._track) as kept:
            arrays = dict(kept)
        damage = Damage(**json.loads(str(arrays.pop("damage"))))
        return arrays.pop("times"), FaceTrack(**arrays), damage

    @property
    def _track(self) -> Path:
        return self.folder / "track.npz"

    def _looks(self, number: int) -> Path:
        return self.folder / f"{number:06}.npz"

    def _save(self, path: Path, **arrays: object) -> None:
        try:
            with atomic(path) as file:
                np.savez(file, **arrays)
        except OSError as error:
            raise not_written(path, error) from error


def _remove(folder: Path, mine: bool) -> None:
    """Remove a folder, unless a living process is at work in it."""
    with ExitStack() as stack:
        if not mine:
            try:
                stack.enter_context(held(folder / "lock"))
            except (OutputError, OSError):
                return
        shutil.rmtree(folder, ignore_errors=True)
