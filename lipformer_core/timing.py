"""Every constant that ties sound to picture, in one place; derived ones by exact division.

At 25 frames/s and a hop of 160 samples a video frame spans exactly four mel frames, so no rounding
ever accumulates between the two streams.
"""

SAMPLE_RATE = 16_000  # Hz, of all audio inside the package
FPS = 25  # frames/s, of all prepared video
HOP = 160  # samples between mel frames: 10 ms
WINDOW = 400  # samples in a mel analysis window: 25 ms
N_FFT = 512
N_MELS = 80
F_MIN, F_MAX = 55.0, 7_600.0  # Hz


def exact_div(a: int, b: int) -> int:
    """Divide without remainder, or fail at import."""
    if a % b:
        raise ValueError(f"{a} is not a multiple of {b}")
    return a // b


SAMPLES_PER_FRAME = exact_div(SAMPLE_RATE, FPS)  # 640
MEL_RATE = exact_div(SAMPLE_RATE, HOP)  # 100 mel frames/s
MEL_PER_FRAME = exact_div(MEL_RATE, FPS)  # 4
