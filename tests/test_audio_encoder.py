"""E_aud: which sound reaches a frame's condition, alone and with its neighbours'."""

import pytest
import torch

from lipformer_core.config import preset
from lipformer_core.errors import ConfigError
from lipformer_core.model.audio_encoder import AudioEncoder


def encoder(**settings: object) -> AudioEncoder:
    torch.manual_seed(0)
    return AudioEncoder(preset("quick", audio_dim=16, **settings)).eval()


def reach(net: AudioEncoder, window: int) -> list[int]:
    """Mel frames of the window that F_Aud depends on."""
    sound = torch.randn(1, window, 80, requires_grad=True)
    net(sound).square().sum().backward()
    return sound.grad.abs().sum((0, 2)).nonzero().flatten().tolist()


def test_all_of_the_window_is_heard_alone_and_with_neighbours():
    assert reach(encoder(audio_window=20), 20) == list(range(20))
    assert reach(encoder(audio_window=36, audio_neighbours=2), 36) == list(range(36))


def test_neighbours_are_encoded_alike_and_attend_to_the_middle():
    net = encoder(audio_window=36, audio_neighbours=2)
    sound = torch.randn(3, 36, 80)
    moments = torch.stack([net.project(net.convolutions(sound[:, s : s + 20].mT)) for s in (0, 4, 8, 12, 16)], 1)
    expected = moments[:, 2] + net.temporal(moments + net.moment)[:, 2]
    torch.testing.assert_close(net(sound), expected)
    with torch.no_grad():
        net.temporal.out.weight.zero_(), net.temporal.out.bias.zero_()
    torch.testing.assert_close(net(sound), moments[:, 2])  # without attention: the frame's own sound, as ever


def test_without_neighbours_there_is_nothing_more_to_learn():
    assert not [name for name in encoder().state_dict() if name.startswith(("moment", "temporal"))]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"audio_window": 20, "audio_neighbours": 3}, "audio_neighbours"),
        ({"audio_neighbours": 1, "audio_dim": 18}, "heads"),
    ],
)
def test_windows_that_leave_no_sound_are_refused(settings, named):
    with pytest.raises(ConfigError, match=named):
        preset("quick", **settings)
