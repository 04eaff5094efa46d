"""E_aud: which sound reaches a frame's condition."""

import torch

from lipformer_core.config import AudioSettings
from lipformer_core.model.audio_encoder import AudioEncoder


def test_all_of_the_window_is_heard():
    torch.manual_seed(0)
    for window in (20, 36):
        net = AudioEncoder(AudioSettings(window=window), 16).eval()
        sound = torch.randn(1, window, 80, requires_grad=True)
        net(sound).square().sum().backward()
        assert sound.grad.abs().sum((0, 2)).nonzero().flatten().tolist() == list(range(window))


def test_some_sound_is_lost_in_training_and_none_outside():
    torch.manual_seed(0)
    net, sound = AudioEncoder(AudioSettings(), 16), torch.randn(2, 20, 80)
    assert not torch.allclose(net(sound), net(sound))
    net.eval()
    assert torch.equal(net(sound), net(sound))
