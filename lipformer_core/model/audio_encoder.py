"""E_aud: the sound around a video frame to one condition vector, F_Aud."""

import copy

from torch import Tensor, nn

from ..config import AudioSettings
from ..data.audio.speech import sound_width


class AudioEncoder(nn.Module):
    """Convolutions over time, then one dense layer that keeps the order of events within the window."""

    def __init__(self, settings: AudioSettings, width: int):
        """width : of F_Aud and of everything before it."""
        super().__init__()
        length = -(-settings.window // 2)
        self.convolutions = nn.Sequential(
            nn.Conv1d(sound_width(settings.speech_encoder), width, 5, padding=2),
            nn.SiLU(),
            nn.Conv1d(width, width, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv1d(width, width, 3, padding=1),
            nn.SiLU(),
        )
        self.project = nn.Sequential(
            nn.Flatten(), nn.Linear(width * length, width), nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, width)
        )

    @property
    def columns(self) -> int:
        """Of the sound that it hears."""
        return self.convolutions[0].in_channels

    def hearing(self, columns: int) -> "AudioEncoder":
        """A copy that hears the first so many columns alone, as if the others were silent; of more, all that it has."""
        other, first = copy.deepcopy(self), self.convolutions[0]
        heard = min(columns, first.in_channels)
        other.convolutions[0] = nn.Conv1d(heard, first.out_channels, first.kernel_size, padding=first.padding)
        other.convolutions[0].load_state_dict({"weight": first.weight[:, :heard], "bias": first.bias})
        return other

    def forward(self, audio: Tensor) -> Tensor:
        """F_Aud (B, width) of sound (B, audio.window, columns): 80 mel bands and, if any, speech features."""
        return self.project(self.convolutions(audio.transpose(1, 2)))
