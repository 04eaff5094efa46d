"""A face that speaks: its references are chosen and encoded once, then any of its frames says any sound.

What dubbing, evaluation and the notebooks have in common; like SAM's predictor, it holds what is costly and stays.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .data.prepared.references import references
from .model.autoencoder import to_images, to_tensor
from .model.lipformer import Reference
from .model.precision import fast

Frames = NDArray[np.int64] | Sequence[int]


class Speaker:
    """A model with the references of one clip; where it is, and in which precision, decides the device."""

    def __init__(self, model: Any, device: torch.device | None = None) -> None:
        """model : LipFormer, or anything with its `config`, `encode_reference`, `look` and `say`."""
        self.model = model
        weight = next(iter(model.parameters()), None) if hasattr(model, "parameters") else None
        self.device = device or (torch.device("cpu") if weight is None else weight.device)
        self.dtype = torch.float32 if weight is None else weight.dtype
        self.lender: NDArray[np.int64] = np.empty(0, np.int64)  # who lends to each frame, -1: nobody
        self.lent: dict[int, NDArray[np.uint8]] = {}  # the lenders' crops
        self._encoded: dict[int, Reference] = {}

    def borrow(
        self,
        opening: NDArray,
        pose: NDArray,
        usable: NDArray[np.bool_],
        picture: Callable[[int], NDArray[np.uint8]],
        part: NDArray | None = None,
    ) -> list[tuple[NDArray[np.int64], int]]:
        """Choose and encode the clip's references, by the policy of the model; arguments as of `references`.

        Returns the frames that borrow and who lends to them, empty where no frame may.
        """
        self.lender, self.lent, self._encoded = np.full(len(usable), -1), {}, {}
        chosen, policy = [], self.model.config.lips.reference
        for borrowers, index, crop in references(opening, pose, usable, picture, part, policy):
            self.lender[borrowers], self.lent[index] = index, crop
            with torch.inference_mode():
                self._encoded[index] = self.model.encode_reference(self.tensor(crop[None]))
            chosen.append((borrowers, index))
        return chosen

    def tensor(self, crops: NDArray[np.uint8]) -> Tensor:
        """Crops (k, S, S, 3) as the model takes them: (k, 3, S, S) in [-1, 1]."""
        return to_tensor(torch.from_numpy(np.ascontiguousarray(crops)).to(self.device)).to(self.dtype)

    def windows(self, sound: NDArray[np.float32]) -> Tensor:
        """Sound (k, window, columns) as the model takes it."""
        return torch.from_numpy(np.ascontiguousarray(sound, dtype=np.float32)).to(self.device, self.dtype)

    @torch.inference_mode()
    def look(self, crops: NDArray[np.uint8], frames: Frames) -> Any:
        """What the model sees of the clip's frames, by index and as crops (k, S, S, 3), for any number of `say`."""
        lenders = self.lender[np.asarray(frames)]
        lent = [self._encoded[index] for index in lenders]
        alone = len(set(lenders)) == 1
        reference = lent[0] if alone else type(lent[0])(*(torch.cat(parts) for parts in zip(*lent, strict=True)))
        return self.model.look(self.tensor(crops), reference)

    @torch.inference_mode()
    def say(self, seen: Any, sound: NDArray[np.float32]) -> NDArray[np.uint8]:
        """The generated crops (k, S, S, 3) of what `look` gave, driven by sound (k, window, columns)."""
        return to_images(self.model.say(seen, self.windows(sound)).float())

    @torch.inference_mode()
    def dub(self, crops: NDArray[np.uint8], frames: Frames, sound: NDArray[np.float32]) -> NDArray[np.uint8]:
        """The clip's crops (k, S, S, 3), by index, with their lower half generated; the upper one is left as it is."""
        with fast(self.device):
            seen = self.look(crops, frames)
            bottom = to_images(self.model.say(seen, self.windows(sound), bottom_only=True).float())
        return np.concatenate([crops[:, : crops.shape[1] // 2], bottom], 1)
