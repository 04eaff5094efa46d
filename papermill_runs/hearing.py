"""How much sound tells of a stranger's lips: E_aud learns alone, by the lips' opening and width, without any picture.

`python -m papermill_runs.hearing DATA … --test DATA …` trains E_aud of the preset `realtime`, and the linear map that
reads lips from it, on the training splits of corpora prepared with `--set audio.speech_encoder=moonshine`. It prints a
table as training goes on: the correlation of the opening that it reads with the true one, on the people of each test
split, mean and 95 % bootstrap interval over clips. What can be drawn from this sound has its limit here.
"""

import argparse
from pathlib import Path

import torch
from torch.nn import functional as F

from lipformer_core.config import Config, preset
from lipformer_core.data.prepared.clips import Clip, PreparedCorpus
from lipformer_core.evaluation.metrics import bootstrap_interval, pearson
from lipformer_core.model.build import build
from lipformer_core.training.averaging import WeightAverage
from lipformer_core.training.judges import Judges
from lipformer_core.training.loop import learning_rate
from lipformer_core.training.pairs import PairSampler, without_speech

STEPS, SHOWN = 1500, (150, 300, 600, 1000, 1500)
BATCH, LR, AVERAGE = 64, 1e-3, 0.99


class Ear(torch.nn.Module):
    """E_aud and the map that reads opening and width from it."""

    def __init__(self, config: Config):
        super().__init__()
        self.encoder, self.articulation = build(config).audio_encoder, Judges(config).articulation
        self.config = config

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        """audio : (B, window, columns); returns (B, 2) in units of `training.sampling.LIP_SCALE`"""
        return self.articulation(self.encoder(audio))

    @torch.no_grad()
    def follows(self, clip: Clip) -> float:
        """Correlation of the opening it reads from a clip's sound with the true one."""
        frames = clip.info.valid_frames
        heard = torch.from_numpy(clip.heard(frames, self.config.audio, needed=True))
        return pearson(torch.cat([self(part) for part in heard.split(256)])[:, 0].numpy(), clip.opening[frames])


def learn(folders: list[Path], tests: list[Path], seed: int = 0) -> None:
    """Train and print, a line as soon as it is known."""
    config = preset("realtime", {"audio.speech_encoder": "moonshine"})
    torch.manual_seed(seed)
    ear = Ear(config)
    sampler = PairSampler(ear, PreparedCorpus(*folders), "train", None)
    judged = {str(folder): PreparedCorpus(folder) for folder in tests}
    optimiser = torch.optim.AdamW(ear.parameters(), LR)
    average = WeightAverage(ear, AVERAGE)
    print("| steps | " + " | ".join(judged) + " |\n" + "| --- " * (len(judged) + 1) + "|", flush=True)
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = LR * learning_rate(step, STEPS)
        batch = sampler.draw((seed, step), BATCH)
        loss = F.smooth_l1_loss(ear(without_speech(batch.audio)), batch.lips)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        average.update()
        if step + 1 in SHOWN:
            with average.in_place():
                ear.eval()
                told = [score(ear, corpus) for corpus in judged.values()]
                ear.train()
            print(f"| {step + 1} | " + " | ".join(told) + " |", flush=True)


def score(ear: Ear, corpus: PreparedCorpus) -> str:
    """Mean over a corpus's test clips, and its interval."""
    each = [ear.follows(corpus.open(info.clip_id)) for info in corpus.clips("test", stills=False)]
    mean, low, high = bootstrap_interval([one for one in each if one == one])  # NaN: lips that never move
    return f"{mean:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--test", nargs="+", type=Path, required=True)
    arguments = parser.parse_args()
    learn(arguments.data, arguments.test)
