"""Checkpoints: one safetensors file whose header holds everything needed to rebuild the model alone.

Beside it stands the same header as JSON, for human eyes. Both appear only when complete. Nothing is unpickled.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from .config import PHASES, Config, from_dict
from .device import choose_device
from .errors import CheckpointError
from .files import not_written, replaced

SHIPPED = Path(__file__).parent / "pretrained"  # the run folder of the pretrained weights
Network = TypeVar("Network", bound=nn.Module)
OPTIMISER, AVERAGE, SCALER = "optimiser/", "average/", "scaler/"  # prefixes of what only a state to resume holds


def save(path: Path, model: nn.Module, header: dict, extra: dict[str, torch.Tensor] | None = None) -> None:
    """Write a model's tensors, `extra` ones and a JSON-able header to `path` (.safetensors), atomically."""
    tensors = {**model.state_dict(), **(extra or {})}
    write(path, {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, header)


def write(path: Path, tensors: dict[str, torch.Tensor], header: dict) -> None:
    """Write tensors, contiguous in memory, and a header, as `save`. OutputError if the disk is full, or the like."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={"header": json.dumps(header)})
        except SafetensorError as error:
            raise not_written(path, error) from error
    sidecar = path.with_suffix(".json")
    with replaced(sidecar) as temporary:
        temporary.write_text(json.dumps(header, indent=1))


def load(path: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """Read (header, tensors). CheckpointError if the file is missing, truncated, no safetensors or of old form."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; train first")
    try:
        with safe_open(path, framework="pt") as f:
            header = json.loads((f.metadata() or {}).get("header", "null"))
            tensors = {name: f.get_tensor(name) for name in f.keys()}
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path}: not a safetensors checkpoint ({error})") from error
    if not isinstance(header, dict) or "config" not in header:
        raise CheckpointError(f"{path}: a safetensors file, but without LipFormer's header")
    if "data" not in header["config"]:
        raise CheckpointError(f"{path}: of an earlier version, whose settings were flat; train anew")
    return header, tensors


def model_tensors(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The model's part of a checkpoint's tensors."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith((OPTIMISER, AVERAGE, SCALER))}


def part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def optimiser_tensors(optimisers: list[torch.optim.Optimizer]) -> dict[str, torch.Tensor]:
    """The state of optimisers as tensors, for `save`; `restore_optimiser` is the reverse."""
    return {
        f"{OPTIMISER}{number}/{index}/{key}": torch.as_tensor(value)
        for number, optimiser in enumerate(optimisers)
        for index, state in optimiser.state_dict()["state"].items()
        for key, value in state.items()
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], number: int) -> None:
    """Put the `number`-th optimiser's state back; hyperparameters stay the optimiser's own."""
    state: dict[int, dict] = {}
    for name, tensor in tensors.items():
        if name.startswith(f"{OPTIMISER}{number}/"):
            index, key = name.split("/")[2:]
            state.setdefault(int(index), {})[key] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def scaler_tensors(scaler: torch.amp.GradScaler | None) -> dict[str, torch.Tensor]:
    """The state of fp16's loss scaler as tensors, for `save`; nothing without one."""
    state = {} if scaler is None else scaler.state_dict()
    return {f"{SCALER}{key}": torch.as_tensor(value) for key, value in state.items()}


def restore_scaler(scaler: torch.amp.GradScaler | None, tensors: dict[str, torch.Tensor]) -> None:
    """Put the loss scaler's state back where a checkpoint's tensors hold one."""
    state = {key: tensor.item() for key, tensor in part(tensors, SCALER).items()}
    if scaler is not None and state:
        scaler.load_state_dict(state)


def run_folder(run: Path | str | None) -> Path:
    """A run's folder; for None, and "pretrained" where no such folder is, that of the pretrained weights."""
    shipped = run is None or (str(run) == SHIPPED.name and not Path(run).is_dir())
    return SHIPPED if shipped else Path(run)


def load_codebook(run: Path | str | None = None) -> "nn.Module":
    """The trained stage-1 FaceAutoencoder of a run, as of `run_folder`, in evaluation mode.

    CheckpointError if there is none.
    """
    from .model.autoencoder import FaceAutoencoder

    # beside it the file may hold the discriminator, to train on
    return _loaded(run, "codebook", FaceAutoencoder, "autoencoder.")


def load_lipformer(
    run: Path | str | None = None, phase: str = "lipformer", device: str | torch.device | None = None
) -> "nn.Module":
    """The trained LipFormer of a run folder, ready to speak. CheckpointError if there is none.

    run : None: the pretrained weights; `pretrained/README.md` beside them says what they are good for
    phase : "lipformer", the finished model, or an earlier phase of stage 2: "warping", "cached"
    device : "cpu", "cuda", "cuda:1" or "mps"; None: a GPU where one works, else the CPU. ConfigError for any other
    """
    from .model.build import build

    device = choose_device(device)
    # beside it the file may hold the judges of its training
    return _loaded(run, phase, build, "lipformer.").to(device).ready()


def load_sync(run: Path | str) -> "nn.Module":
    """The trained sync expert (SyncNet) of a run folder, in evaluation mode. CheckpointError if there is none."""
    from .model.syncnet import SyncNet

    # beside it the file holds the reading of lips that helps the training
    return _loaded(run, "sync", lambda config: SyncNet(config.sync.width), "net.")


def load_wav2lip(run: Path | str, device: torch.device | None = None) -> "nn.Module":
    """The trained Wav2Lip-style baseline of a run folder, in evaluation mode. CheckpointError if there is none."""
    from .model.wav2lip import Wav2Lip

    return _loaded(run, "wav2lip", Wav2Lip).to(device)


def _loaded(run: Path | str | None, stage: str, make: Callable[[Config], Network], prefix: str = "") -> Network:
    header, tensors = load(run_folder(run) / stage / "model.safetensors")
    return restore(make(from_dict(header["config"])), part(tensors, prefix))


def load_autoencoder(run: Path | str) -> "nn.Module":
    """The FaceAutoencoder that a run ended with: its LipFormer's, decoder fine-tuned, or stage 1's where that is all.

    run : as of `run_folder`
    CheckpointError if there is neither.
    """
    if (run_folder(run) / "lipformer" / "model.safetensors").is_file():
        return load_lipformer(run, device="cpu").autoencoder
    return load_codebook(run)


def fill(module: nn.Module, other: nn.Module) -> None:
    """Give a module the weights of another of the same architecture. CheckpointError where they do not fit."""
    try:
        module.load_state_dict(other.state_dict())
    except (RuntimeError, AttributeError) as error:  # AttributeError: one of both has no such module
        raise CheckpointError(f"the weights to start from are of another architecture: {error}") from error


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over all parameters and buffers, names and bytes."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def header_of(run: Path | str, stage: str) -> dict:
    """The header of a run's finished stage ("codebook" or a phase). CheckpointError if there is none."""
    return load(Path(run) / stage / "model.safetensors")[0]


def config_of(run: Path | str) -> Config:
    """The settings that a run was trained with, of its last finished stage; "pretrained": of the weights shipped.

    raises CheckpointError if it has none
    """
    folder = run_folder(run)
    stages = (*PHASES[::-1], "codebook", "sync")
    stage = next((s for s in stages if (folder / s / "model.safetensors").is_file()), stages[0])
    return from_dict(header_of(folder, stage)["config"])


def make_header(config: Config, data_hash: str, made_by: list[dict], **more: object) -> dict:
    """Everything a checkpoint says of itself. made_by : the code that trained it, as of `provenance.joined`."""
    facts = {"version": made_by[-1]["version"], "seed": config.seed, "data_hash": data_hash, "made_by": made_by}
    return {"config": config.to_dict(), **facts, **more}


def restore(model: Network, tensors: dict[str, torch.Tensor]) -> Network:
    """Give a model its checkpoint's tensors; in evaluation mode. CheckpointError where they do not fit."""
    try:
        model.load_state_dict(model_tensors(tensors))
    except RuntimeError as error:
        raise CheckpointError(f"the checkpoint does not fit its own configuration: {error}") from error
    return model.eval().to(memory_format=torch.channels_last)
