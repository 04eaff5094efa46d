"""Speech features beside the mel bands: in time, in silence, in prepared clips, in a model, in a dub."""

from pathlib import Path

import numpy as np
import pytest
import torch
from material import FAKE_CONFIG

import lipformer_core as lf
from lipformer_core import weights
from lipformer_core.config import preset
from lipformer_core.data.audio import SILENCE, band_means, log_mel, speech
from lipformer_core.data.media import read_audio
from lipformer_core.data.media.source_streams import write_sound
from lipformer_core.data.prepared.clips import PreparedCorpus
from lipformer_core.data.prepared.prepare import prepare
from lipformer_core.errors import ConfigError, DataError, WeightsMissing
from lipformer_core.model.build import build
from lipformer_core.timing import HOP, SAMPLE_RATE
from lipformer_core.training.lipformer import train_lipformer
from lipformer_core.training.pairs import without_speech
from papermill_runs import hearing

COLUMNS = 80 + speech.FEATURES


def energy_steps(samples: np.ndarray) -> np.ndarray:
    """An encoder in the place of Moonshine's: each step's features are the loudness of the sound that it sees."""
    seen = 2 * speech.FIRST + 1
    count = 1 + (len(samples) - seen) // speech.STRIDE
    starts = speech.STRIDE * np.arange(count)
    loudness = [float(np.sqrt(np.mean(samples[s : s + seen] ** 2))) for s in starts]
    return np.repeat(np.array(loudness, np.float32)[:, None], speech.FEATURES, axis=1)


@pytest.fixture
def encoder(monkeypatch):
    """The stand-in encoder, in this process."""
    monkeypatch.setattr(speech, "_encode", energy_steps)


def clicks(seconds: float, moments: list[float]) -> np.ndarray:
    sound = np.zeros(round(seconds * SAMPLE_RATE), np.float32)
    for moment in moments:
        at = round(moment * SAMPLE_RATE)
        sound[at - 200 : at + 200] = 0.5 * np.sin(np.arange(400))
    return sound


def test_rows_are_mel_and_features_of_the_same_moment(encoder):
    sound = clicks(3.0, [0.5, 1.73, 2.6]) + 1e-3 * np.random.default_rng(0).standard_normal(48_000).astype(np.float32)
    rows = speech.sound_rows(sound, "moonshine")
    assert rows.shape == (301, COLUMNS) and rows.dtype == np.float32
    np.testing.assert_array_equal(rows[:, :80], log_mel(sound))
    np.testing.assert_array_equal(speech.sound_rows(sound), log_mel(sound))
    for moment in (0.5, 1.73, 2.6):
        near = slice(round(moment * 100) - 20, round(moment * 100) + 20)
        weight = rows[near, 80] - rows[near, 80].min()
        assert abs((np.arange(near.start, near.stop) * weight).sum() / weight.sum() - moment * 100) < 1.5  # 10 ms each


def test_features_are_nothing_in_silence_and_know_no_level(encoder):
    assert not speech.sound_rows(np.zeros(16_000, np.float32), "moonshine")[:, 80:].any()
    sound = clicks(3.0, [1.5])
    rows = speech.sound_rows(sound, "moonshine")
    assert (rows[:130] == np.r_[np.full(80, SILENCE), np.zeros(speech.FEATURES)]).all() and rows[150, 80:].all()
    np.testing.assert_allclose(rows[:, 80:], speech.sound_rows(0.25 * sound, "moonshine")[:, 80:], atol=1e-5)
    padded = speech.sound_rows(np.pad(sound, SAMPLE_RATE), "moonshine")  # nor how long it is silent around it
    np.testing.assert_allclose(padded[100:401, 80:], rows[:, 80:], atol=1e-5)
    for length in (0, 5, 159, 700):
        assert speech.sound_rows(np.ones(length, np.float32), "moonshine").shape == (1 + length // HOP, COLUMNS)


def test_long_sound_is_encoded_in_pieces_that_join(encoder, monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    sound = (0.1 * rng.standard_normal(10 * SAMPLE_RATE)).astype(np.float32)
    whole = speech.sound_rows(sound, "moonshine")
    monkeypatch.setattr(speech, "PIECE", 150)
    np.testing.assert_allclose(speech.sound_rows(sound, "moonshine"), whole, atol=5e-3)
    monkeypatch.setattr("lipformer_core.data.media.source_streams.BLOCK", 400)
    with (tmp_path / "sound").open("wb+") as file:
        stored = write_sound(iter(np.array_split(sound, 7)), 0, len(whole), file, "moonshine")
        np.testing.assert_allclose(stored.read(0, len(whole))[:, :COLUMNS], whole, atol=5e-3)
        beyond = stored.read(len(whole), len(whole) + 3)
        assert (beyond[:, :80] == SILENCE).all() and not beyond[:, 80:].any()
        assert stored.mel(0, 5).shape == (5, 80)


def test_mean_normalisation_leaves_the_features(encoder):
    rows = speech.sound_rows(clicks(1.0, [0.5]), "moonshine")
    means = band_means(rows)
    np.testing.assert_allclose(means[:80], rows[:, :80].mean(0), atol=1e-6)
    assert not means[80:].any()


def test_features_are_left_out_of_a_share_of_the_samples():
    torch.manual_seed(0)
    audio = torch.randn(400, 3, COLUMNS)
    changed = without_speech(audio, 0.3)
    assert torch.equal(changed[..., :80], audio[..., :80])
    absent = (changed[..., 80:] == 0).all((1, 2))
    assert 0.2 < absent.float().mean() < 0.4 and torch.equal(changed[~absent], audio[~absent])


def test_a_model_learns_and_is_judged_with_features(encoder, tiny_config, tiny_corpus, tiny_run, tmp_path):
    from lipformer_core.evaluation.cases import Puppet

    config = tiny_config.replace(
        {"audio.speech_encoder": "moonshine", "audio.mean_normalise": True, "stage2.silence": True}
    )
    corpus = prepare("synthetic", None, tmp_path / "data", config, workers=1, progress=False)
    plain = PreparedCorpus(tiny_corpus)
    assert corpus.hash != plain.hash and corpus.manifest["settings"]["speech_encoder"] == "moonshine"
    info = corpus.clips("test")[0]
    clip, without = corpus.open(info.clip_id), plain.open(info.clip_id)
    np.testing.assert_allclose(clip.mel, without.mel, atol=1e-6)
    assert clip.arrays.keys() - without.arrays.keys() == {"speech", "speech_before", "speech_after"}
    assert clip.arrays["speech"].dtype == np.float16 and clip.arrays["speech"].shape == (len(clip.mel), speech.FEATURES)
    heard, silence = clip.heard([0, 9], config.audio), clip.silence(config.audio)
    assert heard.shape == (2, config.audio.window, COLUMNS) and silence.shape == heard.shape[1:]
    plain_audio = config.replace({"audio.speech_encoder": "none"}).audio
    np.testing.assert_allclose(heard[..., :80], without.heard([0, 9], plain_audio), atol=1e-6)
    middle = clip.arrays["speech"][36].astype(np.float32)  # mel frame 4 x 9
    np.testing.assert_array_equal(heard[1, config.audio.window // 2, 80:], middle)
    assert not silence[:, 80:].any()
    with pytest.raises(DataError, match="without audio.speech_encoder=moonshine"):
        without.heard([0], config.audio, needed=True)

    train_lipformer(config, tmp_path / "data", tmp_path / "run", progress=False)
    model = lf.load(tmp_path / "run")
    assert model.config.audio.speech_encoder == "moonshine"
    performer = Puppet(model, clip, torch.device("cpu"))
    truth = clip.frames([0, 9])
    spoken = performer.say(performer.look(truth, [0, 9]), performer.sound(clip, [0, 9]))
    assert spoken.shape == truth.shape and performer.silence(2).shape == heard.shape


def test_the_features_reach_the_sound_condition(tiny_config):
    model = build(tiny_config.replace({"audio.speech_encoder": "moonshine"})).eval()
    sound = torch.randn(1, tiny_config.audio.window, COLUMNS, requires_grad=True)
    model.audio_encoder(sound).square().sum().backward()
    assert (sound.grad.abs().sum((0, 1)) > 0).all()


def test_a_dub_gives_the_model_the_features(encoder, tmp_path):
    from test_dubbing import Material

    m, seen = Material(tmp_path), []
    m.model.config = FAKE_CONFIG.replace({"audio.speech_encoder": "moonshine"})
    say = m.model.say
    m.model.say = lambda face, audio, **options: seen.append(audio) or say(face, audio[..., :80], **options)
    m.dub()
    heard = torch.cat(seen)
    assert heard.shape[1:] == (FAKE_CONFIG.audio.window, COLUMNS) and heard[..., 80:].abs().max() > 0


def test_without_the_file_the_error_says_where_it_comes_from(monkeypatch, tmp_path, tiny_config):
    monkeypatch.setenv("LIPFORMER_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(weights, "carried", lambda carrier: None)
    speech._session.cache_clear()
    with pytest.raises(WeightsMissing, match="moonshine_tiny_en_encoder.ort.*moonshine-voice 0.0.4"):
        speech.sound_rows(np.ones(1_000, np.float32), "moonshine")
    with pytest.raises(WeightsMissing, match="moonshine_tiny_en_encoder.ort"):
        config = tiny_config.replace({"audio.speech_encoder": "moonshine"})
        prepare("synthetic", None, tmp_path / "data", config, workers=1, progress=False)
    with pytest.raises(ConfigError, match="audio.speech_encoder"):
        preset("quick", {"audio.speech_encoder": "wav2vec"})


def test_the_real_encoder_follows_the_sound():
    try:
        weights.find(speech.FILE)
    except WeightsMissing as error:
        pytest.skip(str(error))
    speech._session.cache_clear()
    rng = np.random.default_rng(0)
    sound = (0.05 * rng.standard_normal(3 * SAMPLE_RATE)).astype(np.float32)
    hum = np.sign(np.sin(2 * np.pi * 150 / SAMPLE_RATE * np.arange(SAMPLE_RATE)))
    sound[SAMPLE_RATE : 2 * SAMPLE_RATE] += 0.2 * hum
    features = speech.sound_rows(sound, "moonshine")[:, 80:]
    assert features.shape == (301, speech.FEATURES) and 0.1 < features.std() < 2
    hummed, hissed = features[120:180].mean(0), np.r_[features[20:80], features[220:280]].mean(0)
    humming = (features - (hummed + hissed) / 2) @ (hummed - hissed) > 0
    assert abs(np.flatnonzero(humming[50:150])[0] + 50 - 100) <= 10 and abs(np.flatnonzero(humming)[-1] - 200) <= 10
    assert humming[115:185].mean() > 0.9 and humming[10:85].mean() < 0.2


def test_no_step_is_heard_where_pieces_join(monkeypatch):
    """Real speech by the real encoder, whose features are not quite the same in two pieces."""
    moonshine = pytest.importorskip("moonshine_voice", reason="the speech encoder's package is not installed")
    speech._session.cache_clear()
    sound = np.tile(read_audio(Path(moonshine.__file__).parent / "assets/beckett.wav")[: 12 * SAMPLE_RATE], 2)
    monkeypatch.setattr(speech, "PIECE", 700)
    steps = np.linalg.norm(np.diff(speech.sound_rows(sound, "moonshine")[:, 80:], axis=0), axis=1)
    for border in range(700, len(steps) - 100, 700):
        assert steps[border - 60 : border + 60].max() <= np.quantile(steps, 0.995), border


def test_a_model_of_features_does_without_them_where_they_are_absent(monkeypatch, tmp_path, tiny_config, tiny_corpus):
    from test_dubbing import Material

    settings = tiny_config.replace(audio={"speech_encoder": "moonshine", "mean_normalise": True}).audio
    corpus = PreparedCorpus(tiny_corpus)  # prepared without
    clip = corpus.open(corpus.clips("test")[0].clip_id)
    heard, silence = clip.heard([3, 9], settings), clip.silence(settings)
    plain = tiny_config.replace({"audio.mean_normalise": True}).audio
    np.testing.assert_array_equal(heard[..., :80], clip.heard([3, 9], plain))
    np.testing.assert_array_equal(silence[:, :80], clip.silence(plain))
    assert heard.shape[-1] == silence.shape[-1] == COLUMNS and not heard[..., 80:].any()
    monkeypatch.setenv("LIPFORMER_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(weights, "carried", lambda carrier: None)
    speech._session.cache_clear()
    m, seen = Material(tmp_path), []
    m.model.config = FAKE_CONFIG.replace({"audio.speech_encoder": "moonshine"})
    say = m.model.say
    m.model.say = lambda face, audio, **options: seen.append(audio) or say(face, audio[..., :80], **options)
    report = m.dub()
    assert torch.cat(seen).shape[-1] == COLUMNS and not torch.cat(seen)[..., 80:].any()
    assert any("without the speech encoder" in warning for warning in report.warnings)


def test_sound_alone_tells_of_lips_that_it_never_saw(encoder, tiny_config, tmp_path, capsys, monkeypatch):
    config = tiny_config.replace({"audio.speech_encoder": "moonshine"})
    prepare("synthetic", None, tmp_path / "data", config, workers=1, progress=False)
    for name, value in {"STEPS": 60, "SHOWN": (1, 60), "BATCH": 16}.items():
        monkeypatch.setattr(hearing, name, value)
    hearing.learn([tmp_path / "data"], [tmp_path / "data"])
    first, last = (float(line.split("|")[2].split()[0]) for line in capsys.readouterr().out.splitlines()[2:])
    assert -1 <= first < last <= 1 and last > 0.3
