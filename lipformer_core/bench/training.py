"""A step of both stages' training on random pictures, for `lipformer bench --training`.

Forward, backward and optimiser; without perceptual and adversarial terms, judges and the loading of data.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..config import Config
from ..evaluation.protocol import gigaflop
from ..model.autoencoder import FaceAutoencoder
from ..model.build import build
from ..model.regions import mouth_pixels
from ..training.losses import reconstruction_loss
from ..training.objectives import ImageObjective
from ..training.pairs import PairBatch

PLAIN = {
    "stage1.perceptual": "none", "stage2.joint.adversarial_weight": 0.0, "stage2.joint.sync_weight": 0.0,
    "stage2.lip_supervision": False, "audio.speech_encoder": "none",
}  # fmt: skip
Step = tuple[Callable[[], object], int, float]


def steps(config: Config, device: torch.device, compiled: bool, heaviest: float = float("inf")) -> dict[str, Step]:
    """By name, a call that trains one step, its samples, and GFLOP a sample, forwards and backwards.

    compiled : also by torch.compile; heaviest : GFLOP of a step, larger ones get smaller batches
    """
    config, found = config.replace(PLAIN), {}
    for name, make, batch in (
        ("stage1", _codebook, config.stage1.batch),
        ("stage2", _lipformer, config.stage2.joint.batch),
    ):
        gflop = gigaflop(make(config, 1, device, False))
        batch = int(max(1, min(batch, heaviest / gflop)))
        gflop = gigaflop(make(config, batch, device, False)) / batch
        found[name] = (make(config, batch, device, False), batch, gflop)
        if compiled:
            found[f"{name}.compile"] = (make(config, batch, device, True), batch, gflop)
    return found


def _faces(config: Config, batch: int, device: torch.device) -> Tensor:
    faces = torch.rand(batch, 3, config.data.size, config.data.size, device=device) * 2 - 1
    return faces.contiguous(memory_format=torch.channels_last)


def _trained(network: nn.Module, loss: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=1e-4, fused=device.type == "cuda")

    @torch.enable_grad()
    def step() -> Tensor:
        value = loss()
        value.backward()
        optimiser.step()
        optimiser.zero_grad()
        return value.detach()

    return step


def _codebook(config: Config, batch: int, device: torch.device, compiled: bool) -> Callable[[], Tensor]:
    autoencoder = FaceAutoencoder(config).to(device, memory_format=torch.channels_last)
    mouth = mouth_pixels(config.data.size).to(device)
    forward = torch.compile(autoencoder) if compiled else autoencoder
    faces = _faces(config, batch, device)

    def loss() -> Tensor:
        out = forward(faces)
        return reconstruction_loss(out["reconstruction"], faces, config.stage1.mouth_weight, mouth) + out["vq_loss"]

    return _trained(autoencoder, loss, device)


def _lipformer(config: Config, batch: int, device: torch.device, compiled: bool) -> Callable[[], Tensor]:
    model = build(config).train().to(device, memory_format=torch.channels_last)
    objective = ImageObjective(model, None).to(device)
    forward = torch.compile(objective) if compiled else objective
    codes = [torch.randint(config.codebook.size, (batch, *config.token_grid), device=device) for _ in range(5)]
    sound = torch.randn(batch, config.audio.window, 80, device=device)
    points = torch.rand(2, batch, 68, 2, device=device) * config.data.size
    nothing = torch.zeros(batch, 2, device=device)
    lent = _faces(config, batch, device) if config.lips.design == "ours" else None
    told = (sound, *points, nothing, [], [], None, nothing)
    pairs = PairBatch(*codes, *told, _faces(config, batch, device), lent)
    return _trained(model, lambda: forward(pairs, 1.0)[0], device)
