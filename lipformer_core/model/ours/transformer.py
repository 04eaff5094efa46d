"""The Transformer with what we added: places, attention among tokens, logits around the reference."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..precision import full_precision
from ..transformer import LipLayer

CHANGED = 1.0  # squared distance, in variances of the codes, beyond which a token has little to do with its reference
SHARPNESS = 2.5  # log of the factor on squared distances; neighbouring codes lie about 0.1 variances apart


class SelfAttention(nn.Module):
    """Pre-norm multi-head self-attention among the tokens of one frame."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, z: Tensor) -> Tensor:
        """z : (B, n, dim) to the same, without the residual."""
        b, n, dim = z.shape
        q, k, v = self.qkv(self.norm(z)).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # (B, heads, n, …) each
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, dim))  # (B, n, dim)


class OurLayer(LipLayer):
    """Attention among the tokens, then the paper's layer."""

    def __init__(self, dim: int, code_dim: int, heads: int, ffn_dim: int, audio_dim: int, scale: float):
        super().__init__(dim, code_dim, heads, ffn_dim, audio_dim, scale)
        self.self_attention = SelfAttention(dim, heads)

    def forward(self, z: Tensor, queries: Tensor | None, codes: Tensor, audio: Tensor) -> Tensor:
        """As `LipLayer`; queries None: Z_i."""
        z = z + self.self_attention(z)  # (B, n, dim)
        return super().forward(z, z if queries is None else queries, codes, audio)


def likeness(latents: Tensor, tokens: Tensor, codes: Tensor) -> Tensor:
    """How far the sound leaves tokens of the reference as they are: 1 where nothing changes, 0 where all does.

    latents, tokens : torch.Tensor, shape = (B, m, d), what is predicted and what the warped reference shows
    codes : (K, d); returns (B, m)
    """
    change = (latents - tokens).square().sum(-1) / codes.var(0).sum()
    return torch.exp(-((change / CHANGED) ** 2))


class OurTransformer(nn.Module):
    """Tr from the warped reference's encoding to logits that begin as its nearest codes.

    The head gives a residual: (warped reference + residual) is compared with the codes, so that before any training the
    reference is copied. Distances from one place have one peak; a linear map to logits beside them tells what may look
    this way or that. Two convolutions see what lies around each token. Queries are Z_i, products are scaled.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        dim: int,
        layers: int,
        heads: int,
        ffn_dim: int,
        audio_dim: int,
        code_dim: int,
        codes: int,
        ablation: str = "none",
    ):
        """grid : rows and columns of tokens; ablation : "reference_queries" or "unscaled" undo ours."""
        super().__init__()
        rows, columns = grid
        self.reference_queries = ablation == "reference_queries"
        scale = 1.0 if ablation == "unscaled" else (dim // heads) ** -0.5
        self.embed = nn.Identity() if dim == code_dim else nn.Linear(code_dim, dim)
        self.around = nn.Sequential(
            nn.Conv2d(code_dim, 2 * dim, 3, padding=1), nn.GELU(), nn.Conv2d(2 * dim, dim, 3, padding=1)
        )
        self.position = nn.Parameter(0.02 * torch.randn(1, rows * columns, dim))
        self.layers = nn.ModuleList(OurLayer(dim, code_dim, heads, ffn_dim, audio_dim, scale) for _ in range(layers))
        self.free = nn.Linear(dim, codes, bias=False)
        self.head = nn.Linear(dim, code_dim)
        for zero in (self.free.weight, self.head.weight, self.head.bias):
            nn.init.zeros_(zero)
        self.log_sharpness = nn.Parameter(torch.tensor(SHARPNESS))

    def forward(
        self, warped: Tensor, codes: Tensor, audio: Tensor, places: Tensor | None = None, prior: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Logits over the bottom codebook, and the latents that were compared with it.

        warped : torch.Tensor, shape = (B, d, h/2, w), the encoding of the warped reference
        codes : torch.Tensor, shape = (K, d), C_B
        audio : torch.Tensor, shape = (B, audio_dim), F_Aud
        places : torch.Tensor, shape = (m,) int64, which of the n = h/2 * w tokens are wanted; None: all
        prior : a code's distance to the warped token counts so many times its distance to the latent, beside it, where
            both are near each other (`likeness`)
        returns (logits (B, m, K), latents (B, m, d)); float32 also under autocast
        """
        places = slice(None) if places is None else places
        tokens = warped.flatten(2).transpose(1, 2)[:, places]  # (B, m, d)
        around = self.around(warped).flatten(2).transpose(1, 2)[:, places]
        z = self.embed(tokens) + around + self.position[:, places]  # (B, m, dim)
        queries = z if self.reference_queries else None
        for layer in self.layers:
            z = layer(z, queries, codes, audio)  # Z_i: (B, m, dim)
        with full_precision(z):
            z = z.float()
            latents = tokens.float() + self.head(z)  # (B, m, d)
            sharpness = self.log_sharpness.exp() / codes.var(0).sum().detach()
            # minus half the squared distances, up to the tokens' own norms, and the free map: one pass over (B, m, K)
            prior = prior * likeness(latents, tokens.float(), codes)[..., None]  # (B, m, 1)
            near, norms = latents + prior * tokens.float(), -0.5 * codes.square().sum(1, keepdim=True)
            seen = torch.cat([near * sharpness, (1 + prior) * sharpness, z], -1)
            return F.linear(seen, torch.cat([codes, norms, self.free.weight], 1)), latents
