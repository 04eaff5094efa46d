"""The Transformer of Figure 2b: N layers of MHCA, CLN and FFN that turn the warped reference into lip codes."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import Config
from .precision import full_precision
from .warping import Warped


class CrossAttention(nn.Module):
    """MHCA, Eq. 8-9: queries from the face tokens, keys and values from the codebook C_B, residual outside.

    ``scale`` is the 1/sqrt(d) of Vaswani et al.; Eq. 9 as printed has none. The output projection after the
    heads is standard for multi-head attention and not printed in Eq. 9 either.
    """

    def __init__(self, dim: int, source_dim: int, heads: int, scale: bool):
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5 if scale else 1.0
        self.query = nn.Linear(dim, dim)  # W_q, b_q
        self.key = nn.Linear(source_dim, dim)  # W_k, b_k
        self.value = nn.Linear(source_dim, dim)  # W_v, b_v
        self.out = nn.Linear(dim, dim)

    def keys_values(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """K_i and V_i of Eq. 8 from codes (K, source_dim), as (1, heads, K, dim/heads); constants at inference."""
        split = lambda x: x.view(1, len(codes), self.heads, -1).transpose(1, 2)  # noqa: E731
        return split(self.key(codes)), split(self.value(codes))

    def forward(self, queries: Tensor, keys_values: tuple[Tensor, Tensor]) -> Tensor:
        """queries : torch.Tensor, shape = (B, n, dim); returns (B, n, dim), without the residual."""
        b, n, dim = queries.shape
        k, v = keys_values
        # the codebook is the same for the whole batch: all tokens are one long row of queries
        q = self.query(queries).view(1, b * n, self.heads, -1).transpose(1, 2)  # (1, heads, B n, dim/heads)
        y = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.out(y.transpose(1, 2).reshape(b, n, dim))


class SelfAttention(nn.Module):
    """Pre-norm multi-head self-attention among the tokens of one frame; ours, off in the preset `paper`."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, z: Tensor) -> Tensor:
        b, n, dim = z.shape
        q, k, v = self.qkv(self.norm(z)).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, dim))


class ConditionalLayerNorm(nn.Module):
    """CLN: layer norm whose scale and shift come from the audio, ``(1 + g(a)) * norm(x) + b(a)``."""

    def __init__(self, dim: int, condition_dim: int):
        super().__init__()
        self.dim = dim
        self.modulation = nn.Linear(condition_dim, 2 * dim)
        nn.init.normal_(self.modulation.weight, std=0.02)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x : (B, n, dim), condition : (B, condition_dim); returns (B, n, dim)."""
        scale, shift = self.modulation(condition)[:, None].chunk(2, -1)
        return (1 + scale) * F.layer_norm(x, (self.dim,)) + shift


class Attended(NamedTuple):
    """The tokens up to the first layer norm: all that no sound changes, so that several sounds can share it.

    tokens : (B, n, d), the warped reference; queries : (B, n, dim) of every layer, None where they are z itself
    z : (B, n, dim), after the first layer's MHCA
    """

    tokens: Tensor
    queries: Tensor | None
    z: Tensor


class LipLayer(nn.Module):
    """One MHCA, CLN, FFN block."""

    def __init__(self, config: Config):
        super().__init__()
        dim = config.model_dim
        self.self_attention = SelfAttention(dim, config.heads) if config.self_attention else None
        self.cross_attention = CrossAttention(dim, config.code_dim, config.heads, config.scale_attention)
        self.norm = ConditionalLayerNorm(dim, config.audio_dim)
        self.ffn = nn.Sequential(nn.Linear(dim, config.ffn_dim), nn.GELU(), nn.Linear(config.ffn_dim, dim))

    def attend(self, z: Tensor, queries: Tensor | None, codes: Tensor) -> Tensor:
        """MHCA with its residual. z : (B, n, dim); queries : tokens if not z itself; codes : (K, d), C_B."""
        if self.self_attention is not None:
            z = z + self.self_attention(z)
        keys_values = self.cross_attention.keys_values(codes)
        return z + self.cross_attention(z if queries is None else queries, keys_values)  # Eq. 9

    def listen(self, z: Tensor, audio: Tensor) -> Tensor:
        """CLN and FFN. z : (B, n, dim), from `attend`; audio : (B, audio_dim)."""
        z = self.norm(z, audio)
        return z + self.ffn(z)


class LipTransformer(nn.Module):
    """Tr: the warped reference, the codebook and the audio to K logits a token.

    ``Z_0`` is the warped reference itself where model_dim equals code_dim, else a linear map of it (ours); with
    ``warp_corners`` two convolutions add what the tokens around each place say (ours).
    """

    def __init__(self, config: Config):
        super().__init__()
        rows, columns = config.token_grid
        dim, code_dim = config.model_dim, config.code_dim
        self.query_source = config.query_source
        self.embed = nn.Identity() if dim == code_dim else nn.Linear(code_dim, dim)
        self.between = None
        if config.warp_corners:
            self.between = nn.Sequential(
                nn.Conv2d(4 * code_dim + 2, 2 * dim, 3, padding=1), nn.GELU(), nn.Conv2d(2 * dim, dim, 3, padding=1)
            )
        self.position = None
        if config.position_embedding:
            self.position = nn.Parameter(0.02 * torch.randn(1, rows * columns, dim))
        self.layers = nn.ModuleList(LipLayer(config) for _ in range(config.layers))
        self.residual_head = config.residual_head
        self.free = nn.Linear(dim, config.codebook_size, bias=False) if config.free_logits else None
        self.head = nn.Linear(dim, code_dim if config.residual_head else config.codebook_size)
        if self.free is not None:
            nn.init.zeros_(self.free.weight)
        if config.residual_head:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)
            self.log_sharpness = nn.Parameter(torch.tensor(2.5))  # neighbouring codes lie about 0.1 variances apart

    def forward(self, warped: Warped, codes: Tensor, audio: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits over the bottom codebook.

        warped : the warped reference bottom, with its corners where `config.warp_corners` is on
        codes : torch.Tensor, shape = (K, d), C_B
        audio : torch.Tensor, shape = (B, audio_dim), F_Aud
        returns (logits (B, h/2 * w, K), the residual head's latents (B, h/2 * w, d) or None); float32, also by autocast
        """
        return self.listen(self.attend(warped, codes), codes, audio)

    def attend(self, warped: Warped, codes: Tensor) -> Attended:
        """The part of `forward` that comes before the sound does."""
        tokens = warped.bottom.flatten(2).transpose(1, 2)  # (B, n, d)
        z = self.embed(tokens)
        if self.between is not None:
            z = z + self.between(warped.corners).flatten(2).transpose(1, 2)
        if self.position is not None:
            z = z + self.position
        queries = None if self.query_source == "z" else z
        return Attended(tokens, queries, self.layers[0].attend(z, queries, codes))

    def listen(self, attended: Attended, codes: Tensor, audio: Tensor) -> tuple[Tensor, Tensor | None]:
        """The rest of `forward`, from the first layer norm that the sound conditions."""
        tokens, queries, z = attended
        for number, layer in enumerate(self.layers):
            z = layer.listen(layer.attend(z, queries, codes) if number else z, audio)
        with full_precision(z):
            out = self.head(z.float())
            if not self.residual_head:
                return out, None
            # nearest-code logits around the warped reference: before any training this copies it
            latent = tokens.float() + out
            sharpness = self.log_sharpness.exp() / codes.var(0).sum().detach()
            # minus half the squared distance, up to the token's own norm, in one pass over (B, n, K)
            logits = F.linear(latent * sharpness, codes, codes.square().sum(1) * (-sharpness / 2))
            # distances from one place have one peak; what may look this way or that has several, and their mean is none
            return logits if self.free is None else logits + self.free(z.float()), latent
