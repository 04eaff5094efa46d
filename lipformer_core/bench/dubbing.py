"""A whole dubbing by the clock: `lipformer dub` in a process of its own, mp4 in, mp4 out."""

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from .. import checkpoint
from ..data.media import VideoWriter
from ..data.synthetic import synthesise_clip
from ..timing import FPS, SAMPLE_RATE

FACE, HEIGHT, WIDTH = 296, 720, 1280  # pixels: of a synthetic picture, whose crop is 256, and of the video
DRAWN = 25  # frames of the made-up video; they are shown back and forth


def made_up_clip(folder: Path, seconds: float) -> tuple[Path, Path]:
    """A 720p video of a synthetic person whose crop is 256 pixels, and its sound, of so many seconds."""
    clip, frames = synthesise_clip(0, 0, 0, DRAWN, FACE), round(seconds * FPS)
    sound = np.resize(clip.audio, round(seconds * SAMPLE_RATE))
    above, left = (HEIGHT - FACE) // 2, (WIDTH - FACE) // 2
    border = ((above, HEIGHT - FACE - above), (left, WIDTH - FACE - left), (0, 0))
    pictures = [np.pad(frame, border, mode="edge") for frame in clip.frames]
    path = folder / "clip.mp4"
    with VideoWriter(path, WIDTH, HEIGHT, FPS, (sound, SAMPLE_RATE)) as writer:
        for number in range(frames):
            writer.write(pictures[DRAWN - 1 - abs(DRAWN - 1 - number % (2 * DRAWN - 2))])
    return path, path


def end_to_end(
    name: str, random: nn.Module | None, clip: tuple[Path, Path], device: torch.device, folder: Path
) -> dict[str, object]:
    """`lipformer dub` in a process of its own: frames by the clock from start to end, its stages, its memory.

    name : what the results are called after, and the run's folder unless a model with random weights is given
    """
    run, out, report = name, folder / "out.mp4", folder / "out.json"
    if random is not None:
        run = folder / "run"
        weights = nn.ModuleDict({"lipformer": random})
        checkpoint.save(run / "lipformer" / "model.safetensors", weights, {"config": random.config.to_dict()})
    command = [sys.executable, "-m", "lipformer_core.cli", "dub", *map(str, clip), "-o", str(out), "--quiet"]
    command += ["--run", str(run), "--report", str(report), "--device", str(device)]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    said = process.stderr.read()
    if hasattr(os, "wait4"):
        _, status, usage = os.wait4(process.pid, 0)
        memory = usage.ru_maxrss / (2**20 if platform.system() == "Darwin" else 2**10)
    else:  # Windows
        status, memory = process.wait(), float("nan")
    spent = time.perf_counter() - start
    if status:
        return {f"{name}.end_to_end_fps": None, f"{name}.end_to_end_fps.why": said.strip()[-300:] or "no reason given"}
    told = json.loads(report.read_text())
    key = f"{name}.end_to_end"
    return {
        f"{key}_fps": told["frames"] / spent,
        f"{key}_frames": told["frames"],
        f"{key}_memory_mb": memory,
    } | {f"{key}_s.{stage}": value for stage, value in told["seconds"].items()}
