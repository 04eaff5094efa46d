"""Where models run: on a GPU where one works, where the user says, and never on a device that is not there."""

import pytest
import torch

import lipformer_core as lf
from lipformer_core import device
from lipformer_core.cli import app
from lipformer_core.device import choose_device
from lipformer_core.errors import ConfigError


@pytest.fixture
def machine(monkeypatch):
    """A machine with the GPUs that are named; those in `broken` fail at work."""

    def make(*present, broken=()):
        monkeypatch.setattr(device, "GPUS", ("cuda", "mps"))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in present)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2 * ("cuda" in present))
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in present)

        def work(chosen):
            if chosen.type in broken:
                raise NotImplementedError("no kernel image is available\nsecond line")

        monkeypatch.setattr(device, "_work", work)

    return make


def test_none_takes_a_gpu_that_works_and_else_the_cpu(machine):
    for present, expected in [(("cuda", "mps"), "cuda"), (("mps",), "mps"), ((), "cpu")]:
        machine(*present)
        assert choose_device() == torch.device(expected)
    machine("mps", broken=["mps"])
    assert choose_device() == torch.device("cpu")


def test_a_device_that_is_named_is_taken_or_refused(machine):
    machine("cuda")
    assert [choose_device(name) for name in ("cpu", "cuda", "cuda:1", torch.device("cuda"))] == [
        torch.device(name) for name in ("cpu", "cuda", "cuda:1", "cuda")
    ]
    for name in ("gpu", "meta", "", "cuda:x", "cuda:2", "mps"):
        with pytest.raises(ConfigError, match="device"):
            choose_device(name)
    machine("cuda", broken=["cuda"])
    with pytest.raises(ConfigError, match="no kernel image"):
        choose_device("cuda")


def test_load_puts_the_model_there(tiny_run, monkeypatch):
    from lipformer_core import checkpoint

    monkeypatch.setattr(checkpoint, "choose_device", lambda name: torch.device("meta" if name is None else name))
    assert {p.device.type for p in lf.load(tiny_run).parameters()} == {"meta"}
    assert {p.device.type for p in lf.load(tiny_run, device="cpu").parameters()} == {"cpu"}


@pytest.mark.parametrize("command", ["dub v.mp4 a.wav --run {run} -o o.mp4", "evaluate --run {run} --data d --out o"])
def test_the_command_line_says_what_is_wrong_with_a_device(command, tiny_run, tiny_corpus):
    from typer.testing import CliRunner

    words = command.format(run=tiny_run).replace("--data d", f"--data {tiny_corpus}").split()
    result = CliRunner().invoke(app, [*words, "--device", "gpu"])
    assert result.exit_code == 2 and "'gpu' is unknown" in result.stderr
