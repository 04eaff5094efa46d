"""PatchGAN discriminator and the hinge losses of VQGAN's adversarial term."""

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F


class PatchDiscriminator(nn.Module):
    """Strided 4x4 convolutions that judge overlapping patches, as in pix2pix and VQGAN."""

    def __init__(self, width: int = 64, levels: int = 3):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        previous = width
        for level in range(1, levels + 1):
            current = width * min(2**level, 8)
            stride = 2 if level < levels else 1
            layers += [
                nn.Conv2d(previous, current, 4, stride=stride, padding=1, bias=False),
                nn.GroupNorm(min(32, current // 4), current),
                nn.LeakyReLU(0.2),
            ]
            previous = current
        layers.append(nn.Conv2d(previous, 1, 4, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        """image : torch.Tensor, shape = (B, 3, S, S) in [-1, 1]; returns patch logits (B, 1, n, n)."""
        return self.layers(image)


def discriminator_loss(discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of the discriminator, which must tell (B, 3, S, S) from each other; no gradient reaches the images."""
    real_logits, fake_logits = discriminator(torch.cat([real, fake]).detach()).chunk(2)
    return (F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()) / 2


def generator_loss(discriminator: nn.Module, fake: Tensor) -> Tensor:
    """Hinge loss of the generator of (B, 3, S, S); no gradient reaches the discriminator's weights."""
    fixed = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    return -functional_call(discriminator, fixed, (fake,)).mean()


def adaptive_weight(reconstruction_loss: Tensor, adversarial_loss: Tensor, last: Tensor) -> Tensor:
    """VQGAN's lambda: the ratio of both losses' gradient norms at the decoder's last weights, at most 1e4.

    Not at the picture: there the reconstruction's gradients point everywhere and cancel, the discriminator's do not.
    """
    (reconstruction,) = torch.autograd.grad(reconstruction_loss, last, retain_graph=True)
    (adversarial,) = torch.autograd.grad(adversarial_loss, last, retain_graph=True)
    return (reconstruction.norm() / (adversarial.norm() + 1e-4)).clamp(0, 1e4).detach()
