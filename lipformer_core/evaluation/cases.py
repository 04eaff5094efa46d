"""What an evaluated clip is made of: its reference, whose audio drives it, and the pictures of every row."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lipformer_core.data.prepared.references import FEWEST_CONTRAST
from lipformer_core.errors import NoFaceFound
from lipformer_core.model.autoencoder import to_images
from lipformer_core.speaker import Speaker
from lipformer_core.training.judges import Judges

STRANGERS = 10  # clips over which the floor of the leak is averaged


def exchange_partner(position: int, persons: Sequence[str]) -> int | None:
    """Whose audio drives clip `position`: the next clip (cyclic) of another person, else the next one, else None."""
    after = [(position + step) % len(persons) for step in range(1, len(persons))]
    others = [j for j in after if persons[j] != persons[position]]
    return (others or after or [None])[0]


def strangers_of(position: int, partner: int | None, count: int) -> list[int]:
    """Up to STRANGERS of `count` clips, the next ones, that are neither clip `position` nor its exchange partner."""
    after = [(position + step) % count for step in range(1, count)]
    return [j for j in after if j != partner][:STRANGERS]


class Puppet(Speaker):
    """A speaker with one clip's references in place; makes the pictures of rows and cases in batches."""

    def __init__(self, model: Any, clip: Any, device: torch.device | None = None) -> None:
        """Raises NoFaceFound if no frame of the clip can serve as a reference."""
        super().__init__(model, device)
        self.clip = clip
        opening, pose, valid = (np.asarray(x) for x in (clip.opening, clip.pose, clip.valid))
        if not self.borrow(opening, pose, valid, lambda index: clip.frames([index])[0]):
            raise NoFaceFound(f"{clip.info.clip_id}: no frame shows a face, so there is no reference")
        if max(crop.std() for crop in self.lent.values()) < FEWEST_CONTRAST:
            raise NoFaceFound(f"{clip.info.clip_id}: every frame is nearly uniform, so there is no reference")
        self.seconds: list[tuple[int, float]] = []  # frames and duration of every `look_and_say`

    @torch.inference_mode()
    def rows(
        self, truth: NDArray[np.uint8], frames: NDArray[np.int64] | Sequence[int], seen: Any, audio: NDArray[np.float32]
    ) -> dict[str, NDArray[np.uint8]]:
        """The ceiling and the copies, of true frames (k, S, S, 3) and their sound (k, window, columns).

        A model that looks at no reference has no warped one.
        """
        half = truth.shape[1] // 2
        copied = truth.copy()
        copied[:, half:] = np.stack([self.lent[i][half:] for i in self.lender[np.asarray(frames)]])
        own = self.model.encode_bottom(self.tensor(truth[:, half:]))
        rows = {"ceiling": to_images(self.model.show(seen, own)), "copy_reference": copied}
        if self.model.config.lips.ablation != "no_reference":
            rows["warped_reference"] = to_images(self.model.show(seen, self.model.warped(seen, self.windows(audio))))
        return rows

    @torch.inference_mode()
    def hear(self, judges: Judges, audio: NDArray[np.float32]) -> NDArray[np.float32]:
        """Lips (k, 2) that the judges of the training read from sound (k, window, columns) alone."""
        return judges.hear(self.model.audio_encoder(self.windows(audio))).cpu().numpy()

    def look_and_say(
        self, truth: NDArray[np.uint8], frames: NDArray[np.int64], audio: NDArray[np.float32]
    ) -> tuple[Any, NDArray[np.uint8]]:
        """`look` and `say` with a stop-watch: a frame's whole way through the model, noted in `seconds`."""
        self._wait()
        start = time.perf_counter()
        seen = self.look(truth, frames)
        spoken = self.say(seen, audio)
        self._wait()
        self.seconds.append((len(truth), time.perf_counter() - start))
        return seen, spoken

    def silence(self, frames: int) -> NDArray[np.float32]:
        """Windows without any sound, as the clip's speaker would be silent: (frames, window, columns)."""
        return np.repeat(self.clip.silence(self.model.config.audio)[None], frames, axis=0)

    def sound(self, clip: Any, frames: NDArray[np.int64] | Sequence[int]) -> NDArray[np.float32]:
        """What the model hears of a clip at its frames: windows (k, window, columns), as `Clip.heard`."""
        return clip.heard(frames, self.model.config.audio)

    def _wait(self) -> None:
        if self.device.type == "cuda":  # otherwise the clock would stop before the work has
            torch.cuda.synchronize(self.device)
