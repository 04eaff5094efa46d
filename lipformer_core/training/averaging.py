"""Moving averages of weights: what is evaluated and kept is steadier than what the last steps left."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """Exponential moving averages of a model's trainable parameters.

    The decay grows from 0.1 to `decay`, as (1 + n) / (10 + n) after n updates, so that the first weights are forgotten.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay, self.updates = decay, 0
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.values = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the present weights in."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        get_ema_multi_avg_fn(decay)(list(self.values.values()), list(self.parameters.values()), None)
        self.updates += 1

    @torch.no_grad()
    def forget(self, parameter: nn.Parameter, rows: Tensor) -> None:
        """Begin anew, from the present weights, with rows of a parameter that were put elsewhere instead of trained.

        parameter : of the model; nothing happens where it is not averaged
        rows : torch.Tensor, shape = (n,), their indices, or (len(parameter),), true at them
        """
        for name, averaged in self.parameters.items():
            if averaged is parameter:
                self.values[name][rows] = parameter[rows]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model holds its averages inside this context, and its own weights again after it."""
        own = {name: p.detach().clone() for name, p in self.parameters.items()}
        _copy(self.values, self.parameters)
        try:
            yield
        finally:
            _copy(own, self.parameters)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {**self.values, "updates": torch.tensor(self.updates)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """The reverse of `state`."""
        self.updates = int(state["updates"])
        _copy(state, self.values)


@torch.no_grad()
def _copy(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])
