"""The Transformer of Figure 2b: N layers of MHCA, CLN and FFN that turn the warped reference into lip codes."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .precision import full_precision


class CrossAttention(nn.Module):
    """MHCA, Eq. 8-9: queries from the face tokens, keys and values from the codebook C_B, residual outside.

    The output projection after the heads is standard for multi-head attention and not printed in Eq. 9.
    """

    def __init__(self, dim: int, code_dim: int, heads: int, scale: float = 1.0):
        """scale : of the products before the softmax; Eq. 9 as printed has none, Vaswani et al. 1/sqrt(dim / heads)."""
        super().__init__()
        self.heads, self.scale = heads, scale
        self.query = nn.Linear(dim, dim)  # W_q, b_q
        self.key = nn.Linear(code_dim, dim)  # W_k, b_k
        self.value = nn.Linear(code_dim, dim)  # W_v, b_v
        self.out = nn.Linear(dim, dim)
        # keys and values of a codebook that stays, from `fold`
        self.register_buffer("folded_keys", None, persistent=False)
        self.register_buffer("folded_values", None, persistent=False)

    def keys_values(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """K_i and V_i of Eq. 8 from codes (K, d), as (1, heads, K, dim/heads)."""
        split = lambda x: x.view(1, len(codes), self.heads, -1).transpose(1, 2)  # noqa: E731
        return split(self.key(codes)), split(self.value(codes))

    def forward(self, queries: Tensor, codes: Tensor) -> Tensor:
        """queries : torch.Tensor, shape = (B, n, dim); codes : (K, d); returns (B, n, dim), without the residual."""
        b, n, dim = queries.shape
        folded = self.folded_keys is not None
        keys, values = (self.folded_keys, self.folded_values) if folded else self.keys_values(codes)
        # the codebook is the same for the whole batch: all tokens are one long row of queries
        q = self.query(queries).view(1, b * n, self.heads, -1).transpose(1, 2)  # (1, heads, B n, dim/heads)
        y = F.scaled_dot_product_attention(q, keys, values, scale=self.scale)  # (1, heads, B n, dim/heads)
        return self.out(y.transpose(1, 2).reshape(b, n, dim))  # (B, n, dim)


class ConditionalLayerNorm(nn.Module):
    """CLN: layer norm whose scale and shift come from the audio, ``(1 + g(a)) * norm(x) + b(a)``."""

    def __init__(self, dim: int, audio_dim: int):
        super().__init__()
        self.dim = dim
        self.modulation = nn.Linear(audio_dim, 2 * dim)
        nn.init.normal_(self.modulation.weight, std=0.02)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, audio: Tensor) -> Tensor:
        """x : (B, n, dim), audio : (B, audio_dim); returns (B, n, dim)."""
        scale, shift = self.modulation(audio)[:, None].chunk(2, -1)  # (B, 1, dim) each
        return (1 + scale) * F.layer_norm(x, (self.dim,)) + shift  # (B, n, dim)


class LipLayer(nn.Module):
    """One MHCA, CLN, FFN block."""

    def __init__(self, dim: int, code_dim: int, heads: int, ffn_dim: int, audio_dim: int, scale: float = 1.0):
        super().__init__()
        self.cross_attention = CrossAttention(dim, code_dim, heads, scale)
        self.norm = ConditionalLayerNorm(dim, audio_dim)
        self.ffn = nn.Sequential(nn.Linear(dim, ffn_dim), nn.GELU(), nn.Linear(ffn_dim, dim))

    def forward(self, z: Tensor, queries: Tensor, codes: Tensor, audio: Tensor) -> Tensor:
        """z, queries : (B, n, dim); codes : (K, d); audio : (B, audio_dim); returns (B, n, dim)."""
        z = z + self.cross_attention(queries, codes)  # Eq. 9: (B, n, dim)
        z = self.norm(z, audio)  # (B, n, dim)
        return z + self.ffn(z)  # (B, n, dim)


class LipTransformer(nn.Module):
    """Tr: the warped reference, the codebook and the audio to K logits a token, as printed: queries from the warped
    reference in every layer, no 1/sqrt(d).

    ``Z_0`` is the warped reference itself where `dim` equals `code_dim`, else a linear map of it (ours).
    """

    def __init__(self, dim: int, layers: int, heads: int, ffn_dim: int, audio_dim: int, code_dim: int, codes: int):
        super().__init__()
        self.embed = nn.Identity() if dim == code_dim else nn.Linear(code_dim, dim)
        self.layers = nn.ModuleList(LipLayer(dim, code_dim, heads, ffn_dim, audio_dim) for _ in range(layers))
        self.head = nn.Linear(dim, codes)

    def forward(self, warped: Tensor, codes: Tensor, audio: Tensor) -> Tensor:
        """Logits over the bottom codebook.

        warped : torch.Tensor, shape = (B, d, h/2, w), the warped reference bottom
        codes : torch.Tensor, shape = (K, d), C_B
        audio : torch.Tensor, shape = (B, audio_dim), F_Aud
        returns (B, h/2 * w, K), float32 also under autocast
        """
        reference = self.embed(warped.flatten(2).transpose(1, 2))  # (B, n, dim)
        z = reference  # Z_0
        for layer in self.layers:
            z = layer(z, reference, codes, audio)  # Z_i: (B, n, dim)
        with full_precision(z):
            return self.head(z.float())  # (B, n, K)


@torch.no_grad()
def fold(network: nn.Module, codes: Tensor | None) -> None:
    """Make keys and values of the codes (K, d) constants in every CrossAttention of a network; None undoes it."""
    for module in network.modules():
        if isinstance(module, CrossAttention):
            module.folded_keys, module.folded_values = (None, None) if codes is None else module.keys_values(codes)
