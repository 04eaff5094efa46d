"""How fast the generator, a step of training and a whole dubbing are on this machine: `lipformer bench`.

All is measured in turns within one run, so that what else the machine does falls on all alike: every model and runtime,
a generator of the shape that Wav2Lip published, and what the machine reaches in a matrix product and in a 3 x 3
convolution. Under bfloat16 autocast on a GPU, and on a CPU that multiplies it itself, else in float32; channels-last.

ONNX Runtime and torch.compile are measured here and offered nowhere else. On one busy core of an x86 server they made
`realtime` 4 % and 3 % faster, the second after minutes of compiling, and ONNX Runtime made `small` 32 % faster:
`lipformer bench realtime small --runtime eager --runtime onnx --seconds 4 --clip 0`, and `--runtime compile`.
"""

import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import checkpoint
from ..config import preset
from ..data.audio.speech import onnx_runtime, sound_width
from ..device import choose_device
from ..errors import ConfigError
from ..evaluation.protocol import gigaflop
from ..model.build import build
from ..model.precision import fast, has_bfloat16
from ..model.wav2lip import PublishedWav2Lip
from ..presets import PRESETS
from ..progress import tqdm
from .dubbing import end_to_end, made_up_clip
from .training import steps

MODELS = ("realtime", "small", "pretrained")
RUNTIMES = ("eager", "compile", "onnx")
PARTS = ("look", "hear", "predict", "decode")  # of `LipFormer.say` and what comes before
ROUNDS = 5  # turns of each
HEAVIEST = 100.0  # GFLOP a call on a CPU: larger models get smaller batches


@dataclass
class Subject:
    """What is measured: a call, of how many frames or samples, and of how many GFLOP each."""

    call: Callable[[], object]
    frames: int
    gflop: float = 0.0
    kind: str = "generator"
    seconds: tuple[float, ...] = ()  # a call, one a round
    memory_mb: float | None = None  # the most that a GPU held

    def rate(self) -> tuple[float, float, float]:
        """Frames a second: median, least and most of the rounds."""
        rates = self.frames / np.array(self.seconds)
        return float(np.median(rates)), float(rates.min()), float(rates.max())


class Generator(nn.Module):
    """What dubbing computes of a batch of frames: (B, 3, S, S), sound and a reference to (B, 3, S/2, S)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.kind = model, None

    def forward(self, target: Tensor, sound: Tensor, *reference: Tensor) -> Tensor:
        """reference : the parts of what `encode_reference` gives."""
        seen = self.model.look(target, self.kind(*reference))
        return self.model.say(seen, sound, bottom_only=True).float()

    def example(self, batch: int, device: torch.device) -> tuple[Tensor, ...]:
        """Inputs of `forward`, of random faces and sounds."""
        config, random = self.model.config, torch.Generator().manual_seed(0)
        shape = (batch, 3, config.data.size, config.data.size)
        faces = (2 * torch.rand(shape, generator=random) - 1).to(device, memory_format=torch.channels_last)
        columns = sound_width(config.audio.speech_encoder)
        sound = torch.randn(batch, config.audio.window, columns, generator=random).to(device)
        reference = self.model.encode_reference(faces[:1])
        self.kind = type(reference)
        return faces, sound, *reference


def exported(generator: Generator, example: tuple[Tensor, ...], folder: Path) -> Callable[[], np.ndarray]:
    """The generator in ONNX Runtime, on the CPU, for inputs of the example's shapes, and called with these.

    raises ConfigError without the packages onnx and onnxruntime
    """
    try:
        import onnx  # noqa: F401 - torch's exporter needs it

        onnxruntime = onnx_runtime()
    except ImportError as error:
        raise ConfigError(f"the runtime onnx needs {error.name}: pip install onnx onnxruntime") from error
    path, names = folder / "generator.onnx", [f"in{number}" for number in range(len(example))]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's age, and that shapes become constants
        torch.onnx.export(generator, example, path, input_names=names, opset_version=18, dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    wanted = {part.name for part in session.get_inputs()}
    given = {name: part.contiguous().numpy() for name, part in zip(names, example, strict=True) if name in wanted}
    return lambda: session.run(None, given)[0]


def measure(subjects: Mapping[str, Subject], seconds: float, device: torch.device, progress: bool = False) -> None:
    """Fill in each subject's `seconds`: ROUNDS turns of each, of `seconds` altogether, one after another."""
    calls = {}
    for name, subject in tqdm(subjects.items(), desc="warm up", unit="row", disable=not progress):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        subject.call()
        once = _time(subject.call, 1, device)
        calls[name] = max(1, round(seconds / ROUNDS / once))
        if device.type == "cuda":
            subject.memory_mb = torch.cuda.max_memory_allocated(device) / 2**20
    for _ in tqdm(range(ROUNDS), desc="measure", unit="round", disable=not progress):
        for name, subject in subjects.items():
            subject.seconds += (_time(subject.call, calls[name], device) / calls[name],)


def _time(call: Callable[[], object], times: int, device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    for _ in range(times):
        with fast(device):
            call()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def peaks(device: torch.device) -> dict[str, Subject]:
    """A matrix product and a 3 x 3 convolution, channels-last, in the precision of everything else."""
    gpu = device.type == "cuda"
    kind = {"device": device, "dtype": torch.bfloat16 if has_bfloat16(device.type) else torch.float32}
    side, channels, batch = (8192, 512, 64) if gpu else (1024, 128, 16)
    a, b = torch.randn(side, side, **kind), torch.randn(side, side, **kind)
    x = torch.randn(batch, channels, 32, 32, **kind).to(memory_format=torch.channels_last)
    convolution = nn.Conv2d(channels, channels, 3, padding=1, **kind).to(memory_format=torch.channels_last)
    return {
        "gemm": Subject(lambda: a @ b, 1, 2 * side**3 / 1e9, "peak"),
        "convolution": Subject(lambda: convolution(x), 1, 2 * 9 * channels**2 * x[:, 0].numel() / 1e9, "peak"),
    }


def wav2lip_shaped(batch: int, device: torch.device) -> Subject:
    """Wav2Lip's generator as published, at 96 x 96, with random weights."""
    net = PublishedWav2Lip().eval().to(device, memory_format=torch.channels_last)
    seen = torch.rand(batch, 6, 96, 96, device=device).contiguous(memory_format=torch.channels_last)
    sound = torch.rand(batch, 1, 80, 16, device=device)
    return Subject(lambda: net(seen, sound), batch, gigaflop(net, seen, sound) / batch)


def generators(
    name: str, model: Any, runtimes: Iterable[str], batch: int, device: torch.device, folder: Path
) -> dict[str, Subject]:
    """A model in its runtimes, and in eager mode its parts."""
    whole = Generator(model).eval()
    one = whole.example(1, device)
    if device.type != "cuda":
        batch = max(1, min(batch, int(HEAVIEST / gigaflop(whole, *one))))
    inputs = whole.example(batch, device)
    gflop, subjects = gigaflop(whole, *inputs) / batch, {}
    for runtime in runtimes:
        call = lambda run=whole: run(*inputs)  # noqa: E731
        if runtime == "compile":
            compiled = torch.compile(whole)
            call = lambda run=compiled: run(*inputs)  # noqa: E731
        elif runtime == "onnx":
            call = exported(whole, inputs, folder)
        subjects[f"{name}.{runtime}"] = Subject(call, batch, gflop)
    reference = whole.kind(*inputs[2:])
    seen = model.look(inputs[0], reference)
    heard = model.hear(seen, inputs[1])
    lips = model.choose(model.predict(*heard)[0], None)
    keeps = model.config.lips.keep_reference  # then the moved reference is decoded, too
    codes = model.nearest(heard[0]) if keeps else None  # which `decode` looks up, for both
    copied = lambda: [model.autoencoder.decode_bottom(seen.upper, codes)] if keeps else []  # noqa: E731
    calls = (
        lambda: model.look(inputs[0], reference),
        lambda: model.hear(seen, inputs[1]),
        lambda: model.choose(model.predict(*heard)[0], None),
        lambda: (model.decode(seen.upper, lips, heard[0], bottom_only=True), *copied()),
    )
    for part, call in zip(PARTS, calls, strict=True):
        subjects[f"{name}.{part}"] = Subject(call, batch, gigaflop(call) / batch, "part")
    return subjects


def load(name: str, device: torch.device) -> Any:
    """The model of a preset, with random weights, or of a run's folder, ready to speak."""
    if name in PRESETS:
        torch.manual_seed(0)
        return build(preset(name)).to(device, memory_format=torch.channels_last).ready()
    return checkpoint.load_lipformer(name, device=device)


@torch.no_grad()
def bench(
    models: Iterable[str] = MODELS,
    *,
    runtimes: Iterable[str] = ("eager",),
    device: str | torch.device | None = None,
    seconds: float = 3.0,
    batch: int = 16,
    training: bool = False,
    clip_s: float = 0.0,
    video: Path | str | None = None,
    progress: bool = True,
) -> dict[str, object]:
    """Measure everything; flat results, whose plain keys (`generator_fps`, `end_to_end_fps`) are the first model's.

    models : presets, with random weights, or folders of runs; "pretrained": the weights shipped
    runtimes : of RUNTIMES; seconds : of measurement for each row; batch : frames at once
    training : measure a step of both stages, too, in eager mode and, if that is a runtime, compiled
    clip_s : seconds of a made-up 720p video with a face of 256 pixels that is dubbed by the command; 0: none is;
        video : a file in its place

    raises ConfigError for an unknown runtime or one that is not here; CheckpointError for a folder without a model
    """
    models, runtimes, device = list(models), list(runtimes), choose_device(device)
    if unknown := [name for name in runtimes if name not in RUNTIMES]:
        raise ConfigError(f"runtime: {', '.join(unknown)}: choose of {', '.join(RUNTIMES)}")
    if "onnx" in runtimes and device.type != "cpu":
        raise ConfigError("runtime: onnx is measured on the CPU alone; add --device cpu")
    loaded = {name: load(name, device) for name in models}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        subjects = peaks(device) | {"wav2lip_shaped": wav2lip_shaped(batch, device)}
        for name, model in loaded.items():
            subjects |= generators(name, model, runtimes, batch, device, folder)
            if training:
                heaviest = float("inf") if device.type == "cuda" else HEAVIEST
                compiled = "compile" in runtimes
                for step, (call, samples, gflop) in steps(model.config, device, compiled, heaviest).items():
                    subjects[f"{name}.{step}"] = Subject(call, samples, gflop, "training")
        measure(subjects, seconds, device, progress)
        results = summary(subjects, models, device)
        if clip_s or video:
            clip = made_up_clip(folder, clip_s) if video is None else (Path(video), Path(video))
            for name, model in loaded.items():
                results |= end_to_end(name, None if name not in PRESETS else model, clip, device, folder)
            first = f"{models[0]}.end_to_end"
            results |= {k.removeprefix(f"{models[0]}."): v for k, v in results.items() if k.startswith(first)}
    return results


def summary(subjects: Mapping[str, Subject], models: list[str], device: torch.device) -> dict[str, object]:
    """Flat results of what was measured."""
    rates = {name: subject.rate() for name, subject in subjects.items()}
    gflops = {name: rates[name][0] * subject.gflop for name, subject in subjects.items()}
    gpu = device.type == "cuda"
    out: dict[str, object] = {
        "device": torch.cuda.get_device_name(device) if gpu else f"{device.type}, {torch.get_num_threads()} threads",
        "precision": "bf16" if has_bfloat16(device.type) else "fp32",
        "torch": torch.__version__,
        "gemm_gflops": gflops["gemm"],
        "convolution_gflops": gflops["convolution"],
        "wav2lip_shaped_fps": rates["wav2lip_shaped"][0],
    }
    for name, subject in subjects.items():
        if subject.kind == "peak":
            continue
        if subject.kind == "part":
            out |= {f"{name}_ms": 1e3 / rates[name][0], f"{name}_gflop": subject.gflop}
            continue
        out |= dict(zip((f"{name}.fps", f"{name}.fps_least", f"{name}.fps_most"), rates[name], strict=True))
        out |= {f"{name}.gflop": subject.gflop, f"{name}.batch": subject.frames}
        peak = "gemm" if subject.kind == "training" and gpu else "convolution"
        out[f"{name}.utilisation"] = gflops[name] / gflops[peak]
        out[f"{name}.times_wav2lip"] = rates[name][0] / rates["wav2lip_shaped"][0]
        if subject.memory_mb is not None:
            out[f"{name}.memory_mb"] = subject.memory_mb
    first = next(name for name, subject in subjects.items() if name.startswith(f"{models[0]}."))
    return out | {"generator_fps": rates[first][0], "generator_gflop": subjects[first].gflop}


def table(results: Mapping[str, object]) -> str:
    """The results for people: generators and steps of training, then parts, then whole dubbings."""
    lines = [
        f"{results['device']}, {results['precision']}, torch {results['torch']}: matrix product "
        f"{results['gemm_gflops']:.0f} GFLOP/s, 3 x 3 convolution {results['convolution_gflops']:.0f} GFLOP/s",
        f"{'':28}{'a second':>9}{'least':>9}{'most':>9}{'batch':>7}{'GFLOP':>8}{'of peak':>9}{'x Wav2Lip':>11}",
    ]
    for name in (key.removesuffix(".fps") for key in results if key.endswith(".fps")):
        fps, least, most, gflop, batch, share, times = (
            results[f"{name}.{key}"]
            for key in ("fps", "fps_least", "fps_most", "gflop", "batch", "utilisation", "times_wav2lip")
        )
        memory = f"{results[f'{name}.memory_mb']:9.0f} MB" if f"{name}.memory_mb" in results else ""
        lines.append(
            f"{name:28}{fps:9.1f}{least:9.1f}{most:9.1f}{batch:7d}{gflop:8.2f}{share:9.0%}{times:11.2f}{memory}"
        )
    lines.append(f"{'ms a frame':28}" + "".join(f"{part:>9}" for part in PARTS))
    for name in (key.removesuffix(".look_ms") for key in results if key.endswith(".look_ms")):
        lines.append(f"{name:28}" + "".join(f"{results[f'{name}.{part}_ms']:9.2f}" for part in PARTS))
    for name in (key.removesuffix(".end_to_end_fps") for key in results if key.endswith(".end_to_end_fps")):
        fps, frames, memory = (results.get(f"{name}.end_to_end_{key}") for key in ("fps", "frames", "memory_mb"))
        said = results.get(f"{name}.end_to_end_fps.why")
        if fps is not None:
            stages = (f"{k.rpartition('.')[2]} {v:.1f} s" for k, v in results.items() if f"{name}.end_to_end_s." in k)
            said = f"{fps:.1f} frames/s for {frames} frames, with start-up; {memory:.0f} MB; {', '.join(stages)}"
        lines.append(f"{name}, mp4 to mp4: {said}")
    return "\n".join(lines)
