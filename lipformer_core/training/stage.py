"""What a stage of training gives to the loop, and the one Accelerator setup of all stages."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from ..config import Config
from ..errors import ConfigError
from .averaging import WeightAverage

P, T = ParamSpec("P"), TypeVar("T")


class Stage:
    """Base of the stages. The loop owns gradients, optimisers, averages, checkpoints and logs; a stage owns the rest.

    A step sees `optimiser.accumulate` materials a process, numbered on from step to step.
    """

    score: str  # the validation figure that is maximised
    steps: int
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
        raise NotImplementedError

    def before(self, number: int) -> None:
        """Called before each step."""

    def losses(self, number: int, material: Any) -> tuple[list[Tensor | None], dict[str, Tensor]]:
        """One loss for each optimiser, None for one that rests in this step, and figures to log, without gradients."""
        raise NotImplementedError

    def after(self, number: int) -> None:
        """Called after each step."""

    def evaluate(self) -> dict[str, float]:
        """Validation figures, of the weights that the model holds now."""
        raise NotImplementedError


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


def as_configured(train: Callable[Concatenate[Config, P], T]) -> Callable[Concatenate[Config, P], T]:
    """Give a training, whose first argument is its Config, Torch's global switches; they are restored after it."""

    @functools.wraps(train)
    def switched(config: Config, *args: P.args, **kwargs: P.kwargs) -> T:
        if not config.engine.deterministic:
            return train(config, *args, **kwargs)
        before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
        torch.use_deterministic_algorithms(True)
        try:
            return train(config, *args, **kwargs)
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])

    return switched


def mean_figures(rounds: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Validation figures of several rounds, each figure's mean over the rounds that have it, as `val_` and its name."""
    seen: dict[str, list[float]] = {}
    for figures in rounds:
        for name, value in figures.items():
            seen.setdefault(f"val_{name}", []).append(float(value))
    return {name: sum(values) / len(values) for name, values in seen.items()}


def describe_frames(pairs: list) -> str:
    """`(ClipInfo, frame)` pairs in words."""
    return ", ".join(f"{info.clip_id} frame {frame}" for info, frame in pairs)
