"""E_aud: the sound around a video frame to one condition vector, F_Aud."""

from torch import Tensor, nn

from ..config import Config
from ..timing import N_MELS


class AudioEncoder(nn.Module):
    """Convolutions over time, then one dense layer that keeps the order of events within the window."""

    def __init__(self, config: Config):
        super().__init__()
        width = config.audio_dim
        length = -(-config.audio_window // 2)
        self.convolutions = nn.Sequential(
            nn.Conv1d(N_MELS, width, 5, padding=2),
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
        """audio : torch.Tensor, shape = (B, audio_window, 80), log-mel; returns F_Aud (B, audio_dim)."""
        return self.project(self.convolutions(audio.transpose(1, 2)))
