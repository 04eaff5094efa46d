"""Memory and time of `lipformer dub` by length: a made-up 720p video, and a portrait, of so many seconds of speech.

`LIPFORMER_WEIGHTS=… python -m papermill_runs.lengths OUT [SECONDS …]` (60 and 600) dubs each in a process of its own
and prints a line each: the most memory it held, frames a second by the clock, and seconds before the first frame was
made (hearing, following the face, choosing a reference). The model is `tiny` with the speech encoder and random
weights: what is held by length, sound and landmarks and pictures on their way, is the same for every model, and the
smallest model lets the least of it hide.
"""

import sys
from pathlib import Path

import torch
from PIL import Image

from lipformer_core.bench.dubbing import end_to_end, made_up_clip
from lipformer_core.config import preset
from lipformer_core.data.media import iter_frames
from lipformer_core.model.build import build

LENGTHS = (60.0, 600.0)  # seconds
BEFORE = ("audio", "tracking", "reference")  # stages


def main(out: Path, lengths: tuple[float, ...]) -> None:
    """Dub and print, a line as soon as it is known."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model, cpu = build(preset("tiny", {"audio.speech_encoder": "moonshine"})), torch.device("cpu")
    print("| dubbed | seconds | memory, MB | frames/s | before the first frame, s |\n" + "| --- " * 5 + "|", flush=True)
    for seconds in lengths:
        video, sound = made_up_clip(out, seconds)
        portrait = out / "portrait.png"
        Image.fromarray(next(iter_frames(video))[1]).save(portrait)
        for name, source in (("video", video), ("portrait", portrait)):
            told = end_to_end("x", model, (source, sound), cpu, out)
            if told.get("x.end_to_end_fps") is None:
                sys.exit(f"{name} of {seconds:g} s: {told['x.end_to_end_fps.why']}")
            found = {key.removeprefix("x.end_to_end_"): value for key, value in told.items()}
            waited = sum(found[f"s.{stage}"] for stage in BEFORE)
            print(
                f"| {name} | {seconds:g} | {found['memory_mb']:.0f} | {found['fps']:.1f} | {waited:.1f} |", flush=True
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]), tuple(map(float, sys.argv[2:])) or LENGTHS)
