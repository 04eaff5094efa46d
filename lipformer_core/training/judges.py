"""What judges the lips while stage 2 trains: a linear map from the sound, and a reader of bottom codes.

No part of the model that is deployed; a run's file keeps them beside it, to train on and to measure with.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..config import Config

WIDTH = 32  # channels; twice as many after the first halving


class LipReader(nn.Module):
    """Opening and width of the lips from a bottom half's codes.

    It learns on true codes and judges predicted ones with its weights held still, so that the error reaches whoever
    predicted them and cannot be paid by the judge.
    """

    def __init__(self, rows: int, columns: int, code_dim: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(code_dim, WIDTH, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(WIDTH, 2 * WIDTH, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(2 * WIDTH * -(-rows // 2) * -(-columns // 2), 2 * WIDTH),
            nn.SiLU(),
            nn.Linear(2 * WIDTH, 2),
        )

    def forward(self, codes: Tensor) -> Tensor:
        """codes : (B, d, h/2, w); returns (B, 2), opening and width as in `training.pairs.PairBatch.lips`."""
        return self.layers(codes)

    def judge(self, codes: Tensor) -> Tensor:
        """As forward, but no gradient reaches the reader's own weights."""
        return functional_call(self, {name: p.detach() for name, p in self.named_parameters()}, (codes,))


class Judges(nn.Module):
    """`articulation`: lips from F_Aud by a linear map; `reader`: lips from bottom codes."""

    def __init__(self, config: Config):
        super().__init__()
        self.articulation = nn.Linear(config.lips.audio_width, 2)
        self.reader = LipReader(*config.token_grid, config.codebook.dim)

    @torch.no_grad()
    def hear(self, condition: Tensor) -> Tensor:
        """What the sound alone tells of the lips, from F_Aud (B, audio_width), without any picture.

        returns (B, 2), opening and width in units of `training.sampling.LIP_SCALE`, the width less the clip's mean
        """
        return self.articulation(condition)
