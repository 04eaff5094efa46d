"""E_aud: the sound around a video frame to one condition vector, F_Aud."""

import torch
from torch import Tensor, nn

from ..config import Config
from ..data.speech import sound_width
from ..timing import MEL_PER_FRAME
from .transformer import SelfAttention


class AudioEncoder(nn.Module):
    """Convolutions over time, then one dense layer that keeps the order of events within the window.

    With `audio_neighbours` the window is that of so many frames on either side too: each frame's sound is encoded
    alike, they attend to each other, and the middle one's vector is the condition. A frame stays computable alone.
    """

    def __init__(self, config: Config):
        super().__init__()
        width, self.neighbours = config.audio_dim, config.audio_neighbours
        self.own = config.audio_window - 2 * self.neighbours * MEL_PER_FRAME  # mel frames of one frame's sound
        length = -(-self.own // 2)
        self.convolutions = nn.Sequential(
            nn.Conv1d(sound_width(config.speech_encoder), width, 5, padding=2),
            nn.SiLU(),
            nn.Conv1d(width, width, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv1d(width, width, 3, padding=1),
            nn.SiLU(),
        )
        self.project = nn.Sequential(
            nn.Flatten(), nn.Linear(width * length, width), nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, width)
        )
        if self.neighbours:
            self.moment = nn.Parameter(0.02 * torch.randn(1, 2 * self.neighbours + 1, width))
            self.temporal = SelfAttention(width, config.heads)

    def forward(self, audio: Tensor) -> Tensor:
        """F_Aud (B, audio_dim) of sound (B, audio_window, columns): 80 mel bands and, if any, speech features."""
        if not self.neighbours:
            return self.project(self.convolutions(audio.transpose(1, 2)))
        sounds = audio.unfold(1, self.own, MEL_PER_FRAME)  # (B, 2 n + 1, columns, own)
        moments = self.project(self.convolutions(sounds.flatten(0, 1))).unflatten(0, sounds.shape[:2])
        z = moments + self.moment
        return (moments + self.temporal(z))[:, self.neighbours]
