"""The facial codebooks C_U and C_B: nearest-neighbour quantisation and Eq. 3."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .precision import full_precision

BETA = 0.25  # of Eq. 3
SEARCHED = 1024  # tokens that are compared with all codes at once


def nearest(tokens: Tensor, codes: Tensor) -> Tensor:
    """The nearest of the codes (K, d) to each token (n, d), in float32: int64 (n,)."""
    # the squared distance, halved and turned round, less the token's own norm, which does not change the order
    norms = codes.square().sum(1) / -2
    at_once = SEARCHED if tokens.device.type == "cpu" else max(len(tokens), 1)  # what fits a CPU's cache
    parts = (tokens[first : first + at_once] for first in range(0, max(len(tokens), 1), at_once))
    return torch.cat([largest(torch.addmm(norms, part, codes.T)) for part in parts])


def largest(scores: Tensor) -> Tensor:
    """Where the last axis is largest, (...) int64 of scores (..., K); on a CPU in a quarter of `argmax`'s time."""
    return scores.max(-1).indices


def vq_loss(encoding: Tensor, quantised: Tensor, beta: float = BETA) -> Tensor:
    """Eq. 3 for one half: ``||sg[E] - H||^2 + beta ||sg[H] - E||^2``, as means over all elements.

    beta multiplies the COMMITMENT term, the one that moves the encoder; the first moves the codes.

    encoding, quantised : torch.Tensor, same shape
    """
    codebook_term = F.mse_loss(quantised, encoding.detach())
    commitment_term = F.mse_loss(encoding, quantised.detach())
    return codebook_term + beta * commitment_term


class Codebook(nn.Module):
    """K codes of d numbers, compared with encodings in float32, whatever precision the encoder had."""

    def __init__(self, size: int, dim: int):
        super().__init__()
        self.size, self.dim = size, dim
        self.weight = nn.Parameter(torch.empty(size, dim).uniform_(-1 / size, 1 / size))

    def indices(self, encoding: Tensor) -> Tensor:
        """Nearest code of each token. encoding: (B, d, h, w); returns int64 (B, h, w)."""
        tokens = encoding.float().movedim(1, -1)  # (B, h, w, d)
        rows = tokens.reshape(-1, self.dim)
        with full_precision(tokens):
            return nearest(rows, self.weight).view(tokens.shape[:-1])

    def lookup(self, indices: Tensor) -> Tensor:
        """Codes of int64 (B, h, w) as feature maps (B, d, h, w)."""
        return F.embedding(indices, self.weight).permute(0, 3, 1, 2)

    def forward(self, encoding: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantise with a straight-through gradient.

        encoding : torch.Tensor, shape = (B, d, h, w)
        returns (quantised (B, d, h, w), indices (B, h, w), Eq. 3's loss for this half)
        """
        encoding = encoding.float()
        indices = self.indices(encoding)
        quantised = self.lookup(indices)
        loss = vq_loss(encoding, quantised)
        return encoding + (quantised - encoding).detach(), indices, loss

    @torch.no_grad()
    def set_codes(self, codes: Tensor) -> None:
        """Replace all codes: (K, d)."""
        self.weight.copy_(codes)

    @torch.no_grad()
    def tally(self, indices: Tensor) -> Tensor:
        """How many tokens chose each code: (K,), from int64 of any shape; `revive` needs it."""
        chosen = indices.flatten()  # not counted by bincount, which a GPU waits for
        return self.weight.new_zeros(self.size).index_add_(0, chosen, self.weight.new_ones(len(chosen)))

    @torch.no_grad()
    def revive(self, counts: Tensor, encoding: Tensor, generator: torch.Generator) -> int:
        """Move the codes that nobody used (counts == 0, shape (K,)) onto random encodings (B, d, h, w).

        Returns the number of codes moved.
        """
        dead = (counts == 0).nonzero().flatten()
        tokens = encoding.float().movedim(1, -1).reshape(-1, self.dim)
        if not len(dead) or not len(tokens):
            return 0
        chosen = torch.randint(len(tokens), (len(dead),), generator=generator)
        self.weight[dead] = tokens[chosen.to(tokens.device)]
        return len(dead)


def usage(counts: Tensor) -> float:
    """Share (0-1) of the codes that were used at least once. counts: (K,)."""
    return float((counts > 0).cpu().double().mean())


def perplexity(counts: Tensor) -> float:
    """exp(entropy) of the code distribution: 1 (one code) to K (all alike). counts: (K,)."""
    counts = counts.cpu().double()
    p = counts / counts.sum().clamp(min=1)
    return float(torch.exp(-(p * torch.log(p.clamp(min=1e-12))).sum()))


@torch.no_grad()
def kmeans(tokens: Tensor, size: int, generator: torch.Generator, rounds: int = 10) -> Tensor:
    """Lloyd's algorithm from random members; empty clusters restart on random tokens.

    tokens : torch.Tensor, shape = (n, d); returns (size, d)
    """
    centres = tokens[torch.randperm(len(tokens), generator=generator)[:size].to(tokens.device)].clone()
    if len(centres) < size:
        raise ValueError(f"{len(tokens)} tokens cannot initialise {size} codes")
    for _ in range(rounds):
        chosen = nearest(tokens, centres)
        counts = torch.bincount(chosen, minlength=size)
        sums = torch.zeros_like(centres).index_add_(0, chosen, tokens)
        centres = sums / counts.clamp(min=1)[:, None]
        empty = (counts == 0).nonzero().flatten()
        drawn = torch.randint(len(tokens), (len(empty),), generator=generator)
        centres[empty] = tokens[drawn.to(tokens.device)]
    return centres
