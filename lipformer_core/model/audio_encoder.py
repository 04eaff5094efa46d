"""E_aud: the sound around a video frame to one condition vector, F_Aud."""

from torch import Tensor, nn

from ..config import Config
from ..data.audio.speech import sound_width


class AudioEncoder(nn.Module):
    """Convolutions over time, then one dense layer that keeps the order of events within the window."""

    def __init__(self, config: Config):
        super().__init__()
        width, length = config.audio_dim, -(-config.audio_window // 2)
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

    def forward(self, audio: Tensor) -> Tensor:
        """F_Aud (B, audio_dim) of sound (B, audio_window, columns): 80 mel bands and, if any, speech features."""
        return self.project(self.convolutions(audio.transpose(1, 2)))
