"""A reader of lips from bottom codes: training's own judge of what the predicted codes make the mouth do."""

from torch import Tensor, nn
from torch.func import functional_call

from ..config import Config

WIDTH = 32  # channels; twice as many after the first halving


class LipReader(nn.Module):
    """Opening and width of the lips from a bottom half's codes; ours, of use in training alone.

    It learns on true codes and judges predicted ones with its weights held still, so that the error reaches whoever
    predicted them and cannot be paid by the judge.
    """

    def __init__(self, config: Config):
        super().__init__()
        rows, columns = config.token_grid
        self.layers = nn.Sequential(
            nn.Conv2d(config.code_dim, WIDTH, 3, padding=1),
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
