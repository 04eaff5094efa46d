"""Quantiser and Eq. 3 against independent arithmetic."""

import numpy as np
import pytest
import torch

from lipformer_core.model.codebook import BETA, Codebook, kmeans, perplexity, usage, vq_loss


def make(size: int = 32, dim: int = 8) -> Codebook:
    torch.manual_seed(0)
    codebook = Codebook(size, dim)
    codebook.set_codes(torch.randn(size, dim))
    return codebook


def test_nearest_neighbour_against_numpy():
    codebook, encoding = make(), torch.randn(3, 8, 4, 5)
    quantised, indices, _ = codebook(encoding)
    codes, tokens = codebook.weight.detach().numpy().astype(np.float64), encoding.numpy().astype(np.float64)
    for b, y, x in np.ndindex(3, 4, 5):
        nearest = min(range(32), key=lambda k: ((tokens[b, :, y, x] - codes[k]) ** 2).sum())
        assert indices[b, y, x] == nearest
        np.testing.assert_allclose(quantised[b, :, y, x].detach(), codes[nearest], atol=1e-6)


def test_against_vector_quantize_pytorch():
    import vector_quantize_pytorch as library

    ours = make()
    theirs = library.VectorQuantize(dim=8, codebook_size=32, accept_image_fmap=True, commitment_weight=1.0).eval()
    theirs._codebook.embed.copy_(ours.weight.detach()[None])
    encoding = torch.randn(2, 8, 4, 6)
    their_codes, their_indices, _ = theirs(encoding)
    our_codes, our_indices, _ = ours(encoding)
    assert torch.equal(our_indices, their_indices)
    torch.testing.assert_close(our_codes, their_codes, atol=1e-5, rtol=0)


def test_eq3_value():
    codebook, encoding = make(), torch.randn(2, 8, 3, 3)
    _, indices, loss = codebook(encoding)
    chosen = codebook.weight.detach()[indices].movedim(-1, 1)
    assert loss.item() == pytest.approx((1 + BETA) * (encoding - chosen).square().mean().item(), rel=1e-5)


def gradients(beta: float) -> tuple[torch.Tensor, torch.Tensor]:
    encoding = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)
    codes = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(2), requires_grad=True)
    vq_loss(encoding, codes, beta).backward()
    return encoding.grad, codes.grad


def test_beta_is_on_the_commitment_term():
    encoder_0, codebook_0 = gradients(beta=0.0)
    encoder_1, codebook_1 = gradients(beta=1.0)
    assert torch.count_nonzero(encoder_0) == 0
    assert torch.count_nonzero(encoder_1) == encoder_1.numel()
    assert torch.equal(codebook_0, codebook_1)
    assert torch.count_nonzero(codebook_0) == codebook_0.numel()


def test_straight_through_gradient():
    codebook = make()
    encoding = torch.randn(1, 8, 2, 2, requires_grad=True)
    upstream = torch.randn(1, 8, 2, 2)
    (codebook(encoding)[0] * upstream).sum().backward()
    assert torch.equal(encoding.grad, upstream)


def test_usage_and_perplexity():
    assert usage(torch.tensor([3, 0, 1, 0])) == 0.5
    assert perplexity(torch.full((16,), 5.0)) == pytest.approx(16)
    assert perplexity(torch.tensor([9.0, 0, 0, 0])) == pytest.approx(1)


def test_dead_codes_move_onto_encodings():
    codebook, encoding = make(), torch.randn(2, 8, 4, 4)
    before, counts = codebook.weight.detach().clone(), torch.ones(32)
    counts[[3, 17]] = 0
    assert codebook.revive(counts, encoding, torch.Generator().manual_seed(0)) == 2
    tokens = encoding.movedim(1, -1).reshape(-1, 8)
    for k in range(32):
        if k in (3, 17):
            assert (tokens - codebook.weight[k]).abs().sum(1).min() == 0
        else:
            assert torch.equal(codebook.weight[k], before[k])


def test_kmeans_finds_separate_clusters():
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(6, 4, generator=generator) * 20
    tokens = (centres[:, None] + torch.randn(6, 50, 4, generator=generator)).flatten(0, 1)
    found = kmeans(tokens, 24, generator)
    assert torch.cdist(centres, found).min(1).values.max() < 2
    with pytest.raises(ValueError, match="cannot initialise"):
        kmeans(tokens[:5], 24, generator)
