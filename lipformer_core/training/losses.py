"""Loss terms that are not one component's own: pixel, perceptual, warp supervision."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import WeightsMissing

# torchvision's trunks of LPIPS; its linear layers come with the package lpips
LPIPS_TRUNKS = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}
# 68-point landmarks that move with the head and not with the lips: jaw line and base of the nose
RIGID_POINTS = (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 31, 32, 33, 34, 35)
LIP_POINTS = tuple(range(48, 68))


def reconstruction_loss(output: Tensor, image: Tensor, mouth_weight: float, mouth: Tensor) -> Tensor:
    """L1, with `mouth_weight` more on the mouth's region. output, image: (B, 3, S, S); mouth: `mouth_pixels`."""
    error = (output - image).abs()
    return (error * (1 + mouth_weight * mouth)).mean()


def random_windows(side: int, *images: Tensor) -> list[Tensor]:
    """One window of side x side pixels of each (B, 3, S, S), at the same random place in all; all of them if S <= side.

    Losses that see patches see as much of a face over many steps, for a share of the cost.
    """
    size = images[0].shape[-1]
    if size <= side:
        return list(images)
    top, left = torch.randint(size - side + 1, (2,)).tolist()
    return [image[:, :, top : top + side, left : left + side] for image in images]


def warp_landmark_loss(
    grid: Tensor, target_points: Tensor, reference_points: Tensor, which: tuple[int, ...] = RIGID_POINTS
) -> Tensor:
    """The grid, read at some of the target's landmarks, must point at the reference's.

    grid : torch.Tensor, shape = (B, h/2, w, 2), G_RB in [-1, 1] of the bottom half
    target_points, reference_points : torch.Tensor, shape = (B, 68, 2), pixels of crops, scaled to [-1, 1] of
        the bottom half by `bottom_coordinates`
    returns smooth L1 in grid units; landmarks outside the target's bottom half do not count
    """
    target, reference = target_points[:, which], reference_points[:, which]
    read = F.grid_sample(grid.permute(0, 3, 1, 2), target[:, None], padding_mode="border", align_corners=False)
    read = read[:, :, 0].transpose(1, 2)  # (B, points, 2)
    inside = (target.abs() <= 1).all(-1) & (reference.abs() <= 1).all(-1)
    error = F.smooth_l1_loss(read, reference, beta=0.05, reduction="none").sum(-1)
    return (error * inside).sum() / inside.sum().clamp(min=1)


def bottom_coordinates(points: Tensor, size: int) -> Tensor:
    """Crop pixels (…, 2) to [-1, 1] over the crop's bottom half, pixel centres as `grid_sample` counts them."""
    x = (points[..., 0] + 0.5) * 2 / size - 1
    y = (points[..., 1] + 0.5 - size / 2) * 4 / size - 1
    return torch.stack([x, y], -1)


def perceptual_loss(name: str, weight: float) -> nn.Module | None:
    """The perceptual term of that name (`stage1.perceptual`), or None where it is "none" or its weight is 0.

    raises WeightsMissing where its pretrained file is not present
    """
    if name == "none" or not weight:
        return None
    try:
        return {"lpips": LPIPSLoss, "squeezenet": SqueezeNetLoss}[name]()
    except WeightsMissing as error:
        without = " ".join(f"--set {stage}.perceptual_weight=0" for stage in ("stage1", "stage2.joint"))
        raise WeightsMissing(f"{error}; or train without it: {without}") from error


def lpips_network(trunk: str) -> nn.Module:
    """LPIPS 0.1 (Zhang et al. 2018) in evaluation mode; its trunk is read from a file, and nothing is downloaded.

    trunk : "alex", the metric's, or "vgg", the loss's
    raises WeightsMissing without the trunk's file or the package lpips, WeightsCorrupt for another file
    """
    from ..weights import find

    path = find(LPIPS_TRUNKS[trunk])
    try:
        import lpips
    except ImportError as error:
        raise WeightsMissing("the package lpips is not installed (pip install lpips)") from error
    network = lpips.LPIPS(net=trunk, pnet_rand=True, verbose=False)
    state = torch.load(path, map_location="cpu", weights_only=True)
    # lpips cuts torchvision's `features` into slices and keeps the layers' numbers
    own = {name: "features." + name.split(".", 1)[1] for name in network.net.state_dict()}
    network.net.load_state_dict({name: state[theirs] for name, theirs in own.items()})
    return network.eval().requires_grad_(False)


class LPIPSLoss(nn.Module):
    """LPIPS (Zhang et al. 2018) with the VGG trunk, as in VQGAN."""

    def __init__(self) -> None:
        super().__init__()
        self.net = lpips_network("vgg")

    def train(self, mode: bool = True) -> "LPIPSLoss":
        """Stays in evaluation mode: LPIPS has dropout, which is of its own training alone."""
        return super().train(False)

    def forward(self, output: Tensor, image: Tensor) -> Tensor:
        """output, image : (B, 3, S, S) in [-1, 1]."""
        return self.net(output, image).mean()


class SqueezeNetLoss(nn.Module):
    """Distance of unit-normalised ImageNet features (SqueezeNet 1.1). NOT LPIPS, and never reported as such."""

    STAGES = (2, 5, 8, 10, 12)

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import squeezenet1_1

        from ..weights import find

        net = squeezenet1_1(weights=None)
        path = find("squeezenet1_1_imagenet_onnxzoo.pth")
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.features = net.features.eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def forward(self, output: Tensor, image: Tensor) -> Tensor:
        """output, image : (B, 3, S, S) in [-1, 1]."""
        x = (torch.cat([output, image]) / 2 + 0.5 - self.mean) / self.std
        loss = output.new_zeros(())
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in self.STAGES:
                a, b = F.normalize(x, dim=1).chunk(2)
                loss = loss + (a - b).square().sum(1).mean()
        return loss
