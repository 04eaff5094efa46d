"""What a stage of training gives to the loop, and the one Accelerator setup of all stages."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from ..config import Config
from ..errors import ConfigError
from ..model.discriminator import PatchDiscriminator, adaptive_weight, discriminator_loss, generator_loss
from .averaging import WeightAverage


class Stage:
    """Base of the stages. The loop owns gradients, optimisers, averages, checkpoints and logs; a stage owns the rest.

    A step sees `optimiser.accumulate` materials a process, numbered on from step to step.
    """

    score = "val_score"  # the validation figure that is maximised
    steps: int
    rounds: int  # fixed batches of a validation
    start: str | None = None  # fingerprint of the model whose weights it went on from
    average: WeightAverage | None = None  # the loop's, where it keeps one
    made_by: Sequence[dict] = ()  # the code that trained the state which it resumed, as of `provenance.joined`
    model: nn.Module  # what is trained and saved, not wrapped, buffers included
    wrapped: list[nn.Module]  # the networks whose forward the Accelerator wrapped
    optimisers: list[torch.optim.Optimizer]

    def __init__(self, config: Config):
        self.config = config
        self.accelerator = make_accelerator(config)
        self.device = self.accelerator.device
        self.fused = self.device.type == "cuda"  # of the optimisers: all parameters in one kernel

    def wrap(self, network: nn.Module) -> nn.Module:
        """A network as the steps call it: compiled where the settings say so, and made fit for many processes."""
        if self.config.engine.compile:
            network.compile()
        return self.accelerator.prepare(network)

    def material(self, number: int) -> Any:
        """What a step needs of the corpus, by its number alone; made by a thread while another step is computed.

        It draws from no global random numbers and leaves tensors' arithmetic to `losses`.
        """
        raise NotImplementedError

    def describe(self, material: Any) -> str:
        """Which clips and frames a material holds, for the message about a step that went wrong."""
        return describe_frames(material[0].frames)

    def before(self, number: int) -> None:
        """Called before each step."""

    def losses(self, number: int, material: Any) -> tuple[list[Tensor | None], dict[str, Tensor]]:
        """One loss for each optimiser, None for one that rests in this step, and figures to log, without gradients."""
        raise NotImplementedError

    def after(self, number: int) -> None:
        """Called after each step."""

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Validation figures of the weights that the model holds now: means over `rounds`, named `val_…`."""
        self.model.eval()
        seen: dict[str, list[float]] = {}
        for number in range(self.rounds):
            for name, value in self.validate(number).items():
                seen.setdefault(f"val_{name}", []).append(float(value))
        self.model.train()
        return {name: sum(values) / len(values) for name, values in seen.items()}

    def validate(self, number: int) -> Mapping[str, Tensor | float]:
        """The figures of one fixed validation batch, without any chance in them."""
        raise NotImplementedError

    def add_discriminator(self, lr: float, width: int = 64) -> torch.optim.Optimizer:
        """Give the stage a `discriminator`, its second network, of so many channels at first; returns its optimiser."""
        self.discriminator = PatchDiscriminator(width).to(self.device)
        self.wrapped.append(self.wrap(self.discriminator))
        return torch.optim.Adam(self.discriminator.parameters(), lr=lr, betas=(0.5, 0.9), fused=self.fused)

    def adversarial(
        self, loss: Tensor, weight: float, last: Tensor, seen: Tensor, truth: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """A loss with VQGAN's adversarial term, the discriminator's own loss, and figures to log.

        last : the last weights, where both losses' gradients are compared
        seen, truth : the part of the picture, and of the true one, that is judged
        """
        fooled = generator_loss(self.discriminator, seen)
        adaptive = adaptive_weight(loss, fooled, last)
        judged = discriminator_loss(self.wrapped[1], truth, seen)
        figures = {"discriminator": judged.detach(), "adversarial": fooled.detach(), "adaptive_weight": adaptive}
        return loss + weight * adaptive * fooled, judged, figures


def make_accelerator(config: Config) -> Accelerator:
    """Accelerate's set-up for one CPU, one GPU or many: from `accelerate launch` or a plain call.

    In every stage some parameters rest in some steps (codes before they exist, the decoder on cached codes).
    With the precision "no" the launcher's `--mixed_precision` decides, and never an earlier training of this process.
    raises ConfigError for what Accelerate refuses, as a precision that the device has not
    """
    resting = DistributedDataParallelKwargs(find_unused_parameters=True)
    precision = None if config.engine.precision == "no" else config.engine.precision
    # Accelerate keeps the first precision of a process for all that follow, and has no public way to another one; the
    # processes' group, which is `PartialState`'s, stays
    AcceleratorState._reset_state()
    try:
        accelerator = Accelerator(mixed_precision=precision, kwargs_handlers=[resting])
    except ValueError as error:
        raise ConfigError(f"Accelerate refuses engine.precision={config.engine.precision}: {error}") from error
    if accelerator.mixed_precision == "fp16" and accelerator.scaler is None:
        raise ConfigError(f"precision: fp16 needs a GPU, and this device is {accelerator.device.type}; take bf16 or no")
    return accelerator


def describe_frames(pairs: list) -> str:
    """`(ClipInfo, frame)` pairs in words."""
    return ", ".join(f"{info.clip_id} frame {frame}" for info, frame in pairs)
