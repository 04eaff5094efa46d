"""E_aud: the sound around a video frame to one condition vector, F_Aud."""

import copy

from torch import Tensor, nn
from torch.nn import functional as F

from ..config import AudioSettings
from ..data.audio.speech import sound_width

LOST_COLUMNS, LOST_CHANNELS, LOST = 0.1, 0.1, 0.5  # in training: of sound, of convolutions, and before the dense layer


class AudioEncoder(nn.Module):
    """Convolutions over time, then one dense layer that keeps the order of events within the window.

    Dropout, in training, keeps it from learning the voices of few people by heart (papermill_runs/README.md).
    """

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
        heard = F.dropout1d(audio.transpose(1, 2), LOST_COLUMNS, self.training)
        for layer in self.convolutions:
            heard = layer(heard)
            if isinstance(layer, nn.SiLU):
                heard = F.dropout1d(heard, LOST_CHANNELS, self.training)
        return self.project(F.dropout(heard, LOST, self.training))
