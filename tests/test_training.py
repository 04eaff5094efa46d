"""Both stages train, resume, and touch only what Figure 2 lets them touch."""

import shutil

import numpy as np
import pytest
import torch

import lipformer_core as lf
from lipformer_core import checkpoint
from lipformer_core.config import preset
from lipformer_core.data.audio import SILENCE
from lipformer_core.data.prepared.clips import PreparedCorpus
from lipformer_core.data.prepared.references import draw_reference, draw_twin
from lipformer_core.errors import CheckpointError, ConfigError, DataError
from lipformer_core.model.autoencoder import FaceAutoencoder, to_images
from lipformer_core.model.build import build
from lipformer_core.model.syncnet import AUDIO_WINDOW, SyncNet
from lipformer_core.training.codebook import CodebookStage, train_codebook
from lipformer_core.training.journal import read_log
from lipformer_core.training.lipformer import LipFormerStage, Trained, train_lipformer
from lipformer_core.training.loop import finished, optimise, take_over
from lipformer_core.training.objectives import ApartObjective, CodeObjective, ImageObjective
from lipformer_core.training.pairs import CLOSED, PairSampler
from lipformer_core.training.sampling import LIP_SCALE, FrameSampler
from lipformer_core.training.sync import train_sync
from papermill_runs.shipped import halve, renew_hearing


def test_stage_2_freezes_encoder_and_codebooks_and_trains_the_rest(tiny_run, tiny_config):
    before = checkpoint.load_codebook(tiny_run)
    after = checkpoint.load_lipformer(tiny_run)
    for part in ("encoder", "upper_codebook", "bottom_codebook"):
        assert checkpoint.fingerprint(getattr(before, part)) == checkpoint.fingerprint(getattr(after.autoencoder, part))
    assert checkpoint.fingerprint(before.decoder) != checkpoint.fingerprint(after.autoencoder.decoder)
    torch.manual_seed(tiny_config.seed)
    fresh = build(tiny_config, before)
    for part in ("warping", "audio_encoder", "transformer"):
        old, new = getattr(fresh, part).state_dict(), getattr(after, part).state_dict()
        changed = [name for name in old if not torch.equal(old[name], new[name])]
        assert changed, f"{part} did not train"


@pytest.mark.parametrize("design", ["paper", "ours"])
def test_only_figure_2s_trainable_parts_get_gradients(design, tiny_config):
    model = build(tiny_config.replace({"lips.design": design}))
    torch.nn.init.normal_(model.transformer.head.weight, std=0.05)  # ours starts at zero, which stops all gradients
    torch.nn.init.normal_(model.autoencoder.bottom_codebook.weight)
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    model(image, torch.randn(2, 20, 80), model.encode_reference(image.flip(0)), tau=1.0).sum().backward()
    frozen = [model.autoencoder.encoder, model.autoencoder.upper_codebook, model.autoencoder.bottom_codebook]
    assert all(p.grad is None for module in frozen for p in module.parameters())
    learning = {"warping": model.warping, "sound": model.audio_encoder, "Transformer": model.transformer}
    learning["decoder"] = model.autoencoder.decoder
    reached = {
        name
        for name, module in learning.items()
        if any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())
    }
    # our warping moves pictures and learns by pictures and landmarks alone
    assert reached == set(learning) - ({"warping"} if design == "ours" else set())


def test_audio_changes_only_the_bottom_codes_and_the_targets_mouth_nothing(tiny_run):
    torch.manual_seed(0)
    model = lf.load(tiny_run)
    transformer = model.transformer
    for layer in (transformer.head, transformer.free, transformer.layers[0].norm.modulation):
        torch.nn.init.normal_(layer.weight)  # a few steps of training barely move them
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    reference = model.encode_reference(image.flip(0))
    seen = []
    hook = model.autoencoder.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    for audio in (torch.full((2, 20, 80), -1.0), 3 * torch.randn(2, 20, 80)):
        model.generate(image, audio, reference)
    hook.remove()
    rows = model.config.token_grid[0]
    assert torch.equal(seen[0][:, :, :rows], seen[1][:, :, :rows])
    assert not torch.equal(seen[0][:, :, rows:], seen[1][:, :, rows:])
    # generate looks at no bottom half of the target; the encoder sees the halves apart from each other
    other = image.clone()
    other[:, :, 16:] = 0
    assert torch.equal(model.encode_upper(image[:, :, :16]), model.encode_reference(other).upper)
    assert torch.equal(model.generate(image, audio, reference), model.generate(other, audio, reference))


def test_log_has_usage_and_perplexity_of_both_codebooks(tiny_run, tiny_config):
    log = read_log(tiny_run / "codebook")
    assert all(0 <= share <= 1 for share in log["waiting"])
    for half in ("upper", "bottom"):
        last = log[f"{half}_usage"][-1], log[f"{half}_perplexity"][-1]
        assert 0 < last[0] <= 1 and 1 <= last[1] <= tiny_config.codebook.size
    assert log["step"][-1] == tiny_config.stage1.steps


def test_autoencoder_overfits_one_batch(tiny_config):
    torch.manual_seed(0)
    model = FaceAutoencoder(tiny_config.replace({"codebook.size": 256}))
    model.upper_codebook.set_codes(torch.randn(256, 8))
    model.bottom_codebook.set_codes(torch.randn(256, 8))
    image = torch.nn.functional.interpolate(torch.rand(2, 3, 8, 8) * 2 - 1, size=32, mode="bilinear")
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(120):
        out = model(image)
        loss = (out["reconstruction"] - image).abs().mean() + out["vq_loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float((out["reconstruction"] - image).detach().abs().mean()))
    assert losses[-1] < 0.3 * losses[0]


def test_adversarial_and_shared_variants_take_their_steps(tiny_config, tiny_corpus, tmp_path):
    changes = {"stage1.adversarial_weight": 0.8, "stage2.joint.adversarial_weight": 0.1, "codebook.shared": True}
    model = train_lipformer(tiny_config.replace(changes), tiny_corpus, tmp_path, progress=False)
    assert model.autoencoder.upper_codebook is model.autoencoder.bottom_codebook
    for stage in ("codebook", "lipformer"):
        assert np.isfinite(read_log(tmp_path / stage)["discriminator"]).any()
    assert np.isfinite(read_log(tmp_path / "codebook")["discriminator"]).tolist() == [False, False, True]


@pytest.mark.parametrize(
    "changes",
    [
        {"lips.design": "paper"},
        {"lips.design": "paper", "lips.ablation": "frozen_decoder", "lips.reference": "nearest"},
        {"lips.ablation": "frozen_decoder", "lips.keep_reference": 2.0},
        {"lips.ablation": "unscaled"},
        {"lips.ablation": "reference_queries"},
        {"lips.ablation": "no_reference"},
        {"lips.ablation": "likeliest_codes"},
        {"lips.ablation": "mean_codes"},
        {"lips.ablation": "trained_codes"},
        {"stage2.apart.steps": 0, "stage2.cached.steps": 0},
    ],
)
def test_every_design_and_ablation_takes_its_steps(changes, tiny_config, tiny_corpus, tiny_run, tmp_path):
    config = tiny_config.replace(changes)
    model = train_lipformer(config, tiny_corpus, tmp_path, progress=False, codebook=tiny_run)
    assert model.config == config and all(torch.isfinite(p).all() for p in model.parameters())
    before = checkpoint.load_codebook(tiny_run).decoder
    still = checkpoint.fingerprint(before) == checkpoint.fingerprint(model.autoencoder.decoder)
    assert still == (config.lips.ablation == "frozen_decoder")
    stage1 = checkpoint.load_codebook(tiny_run)
    for part in ("upper_codebook", "bottom_codebook"):
        same = checkpoint.fingerprint(getattr(stage1, part)) == checkpoint.fingerprint(getattr(model.autoencoder, part))
        assert same == (config.lips.ablation != "trained_codes")
    assert checkpoint.fingerprint(stage1.encoder) == checkpoint.fingerprint(model.autoencoder.encoder)
    assert (tmp_path / "warping").exists() == (tmp_path / "cached").exists() == bool(config.stage2.cached.steps)


@pytest.mark.parametrize("ablation, sharpened", [("none", 2), ("mean_codes", 1), ("likeliest_codes", 1000)])
def test_codes_are_the_mean_of_the_likeliest_and_by_ablations_of_all_or_one(ablation, sharpened, tiny_config):
    torch.manual_seed(0)
    model = build(tiny_config.replace({"lips.ablation": ablation})).eval()
    model.autoencoder.bottom_codebook.set_codes(torch.randn(32, 8))
    logits = torch.randn(2, 5, 32, requires_grad=True)
    for tau in (None, 0.7):
        chosen = model.choose(logits, tau)
        torch.testing.assert_close(chosen, (sharpened * logits).softmax(-1) @ model.codes)
        assert chosen.requires_grad == (ablation != "likeliest_codes" or tau is not None)


def test_without_a_reference_none_of_it_reaches_the_face(tiny_config):
    torch.manual_seed(0)
    image, audio = torch.rand(2, 3, 32, 32) * 2 - 1, torch.randn(2, 20, 80)
    for ablation, same in (("none", False), ("no_reference", True)):
        model = build(tiny_config.replace({"lips.ablation": ablation})).eval()
        model.autoencoder.bottom_codebook.set_codes(torch.randn(32, 8))
        faces = [model.generate(image, audio, model.encode_reference(other)) for other in (image, -image)]
        assert torch.equal(*faces) == same


def test_what_has_nothing_to_learn_has_no_phase(tiny_config, tiny_corpus, tiny_run, tmp_path):
    """Without warping the first phase is the sound's alone, and without supervised lips there is none."""
    config = tiny_config.replace({"lips.ablation": "no_warping"})
    given = dict(data=tiny_corpus, progress=False, codebook=tiny_run)
    train_lipformer(config, run=tmp_path / "sound", until="warping", **given)
    log = read_log(tmp_path / "sound/warping")
    assert "articulation" in log and "landmark" not in log
    config = config.replace({"stage2.lip_supervision": False})
    model = train_lipformer(config, run=tmp_path / "nothing", **given)
    assert not list(model.warping.parameters()) and not (tmp_path / "nothing/warping").exists()
    with pytest.raises(ConfigError, match="the phase 'warping' has no steps"):
        train_lipformer(config, run=tmp_path / "nothing", until="warping", **given)


def test_judges_are_kept_beside_the_model_where_lips_are_supervised(tiny_run, tiny_config, tiny_corpus, tmp_path):
    for phase in ("warping", "cached", "lipformer"):
        names = checkpoint.load(tiny_run / phase / "model.safetensors")[1]
        assert {name.split(".")[0] for name in names} == {"lipformer", "judges"}
    trained, alone = Trained.load(tiny_run), checkpoint.load_lipformer(tiny_run)
    assert checkpoint.fingerprint(trained.lipformer) == checkpoint.fingerprint(alone)
    assert trained.judges.hear(torch.zeros(3, tiny_config.lips.audio_width)).shape == (3, 2)
    config = tiny_config.replace({"stage2.lip_supervision": False})
    train_lipformer(config, tiny_corpus, tmp_path, progress=False, until="cached", codebook=tiny_run)
    assert Trained.load(tmp_path, "cached").judges is None
    assert "articulation" not in read_log(tmp_path / "cached")


def shown(sampler, count):
    """A batch with all pictures."""
    batch = sampler.draw((0,), count)
    return sampler.show(batch, sampler.pixels(batch, True))


@pytest.mark.parametrize("design", ["paper", "ours"])
def test_code_objective_overfits_one_batch(design, tiny_run, tiny_corpus, tiny_config):
    torch.manual_seed(0)
    trained = Trained(tiny_config.replace({"lips.design": design}), checkpoint.load_codebook(tiny_run)).train()
    model = trained.lipformer
    sampler = PairSampler(model, PreparedCorpus(tiny_corpus), "train", tiny_run / "codebook")
    batch = shown(sampler, 4)
    objective = CodeObjective(model, trained.judges)
    optimiser = torch.optim.AdamW(trained.predictor(), lr=1e-2)
    logged = []
    for _ in range(150):
        loss, figures, _ = objective(batch, None)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        logged.append({name: float(value) for name, value in figures.items()})
    assert ("latent" in logged[0]) == (design == "ours")
    for name in ("cross_entropy", "articulation", *(["latent"] if design == "ours" else [])):
        assert logged[-1][name] < 0.6 * logged[0][name], name
    assert logged[-1]["accuracy"] > logged[0]["accuracy"]


def test_the_first_phase_trains_warping_and_sound_apart(tiny_run, tiny_corpus, tiny_config, tmp_path):
    """It moves F_e, F_d, E_aud and the linear map, nothing else, and both end nearer to the truth."""
    config = tiny_config.replace({"stage2.apart.steps": 60, "engine.check_every": 60})
    train_lipformer(config, tiny_corpus, tmp_path, progress=False, until="warping", codebook=tiny_run)
    autoencoder = checkpoint.load_codebook(tiny_run)
    torch.manual_seed(config.seed)
    before, after = Trained(config, autoencoder).eval(), Trained.load(tmp_path, "warping")
    old = before.state_dict()
    moved = {".".join(k.split(".")[:2]) for k, value in after.state_dict().items() if (value != old[k]).any()}
    assert moved == {"lipformer.warping", "lipformer.audio_encoder", "judges.articulation"}
    sampler = PairSampler(after.lipformer, PreparedCorpus(tiny_corpus), "train", tiny_run / "codebook")
    batch = shown(sampler, 64)
    with torch.no_grad():
        errors = [ApartObjective(one.lipformer, one.judges)(batch, None)[1] for one in (before, after)]
    assert errors[1]["articulation"] < 0.7 * errors[0]["articulation"]
    assert errors[1]["landmark"] < errors[0]["landmark"]


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("design", ["paper", "ours"])
def test_the_warping_learns_in_every_phase(design, steps, tiny_run, tiny_corpus, tiny_config):
    """Also without a phase of its own; ours, whose picture is encoded without gradient, by its own supervision."""
    config = tiny_config.replace({"lips.design": design, "stage2.apart.steps": steps})
    trained = Trained(config, checkpoint.load_codebook(tiny_run)).train()
    sampler = PairSampler(trained.lipformer, PreparedCorpus(tiny_corpus), "train", tiny_run / "codebook")
    for objective in (CodeObjective, ImageObjective):
        trained.zero_grad()
        loss, logged, _ = objective(trained.lipformer, trained.judges)(shown(sampler, 4), 1.0)
        loss.backward()
        taught = [p for p in trained.lipformer.warping.parameters() if p.grad is not None and p.grad.any()]
        assert len(taught) >= len(list(trained.lipformer.warping.parameters())) - 1
        assert ("warp" in logged) == (design == "ours" or steps > 0)


def test_the_lip_reader_judges_predicted_codes_and_learns_from_true_ones_alone(tiny_run, tiny_corpus, tiny_config):
    torch.manual_seed(0)
    trained = Trained(tiny_config, checkpoint.load_codebook(tiny_run)).train()
    model = trained.lipformer
    sampler = PairSampler(model, PreparedCorpus(tiny_corpus), "train", tiny_run / "codebook")
    batch = shown(sampler, 4)
    objective = CodeObjective(model, trained.judges)
    reader, rest = list(trained.judges.reader.parameters()), list(model.transformer.head.parameters())
    auxiliary = objective.predict(batch).auxiliary
    for name, reached, untouched in (("lips", rest, reader), ("lips_of_truth", reader, rest)):
        found = torch.autograd.grad(auxiliary[name], reached + untouched, retain_graph=True, allow_unused=True)
        assert all(g is not None for g in found[: len(reached)]) and all(g is None for g in found[len(reached) :])
    optimiser, errors = torch.optim.AdamW(trained.predictor(), lr=3e-3), []
    for _ in range(200):
        auxiliary = objective.predict(batch).auxiliary
        optimiser.zero_grad()
        (auxiliary["lips"] + auxiliary["lips_of_truth"]).backward()
        optimiser.step()
        errors.append([auxiliary[name].item() for name in ("lips", "lips_of_truth")])
    assert errors[-1][1] < 0.1 * errors[0][1] and errors[-1][0] < 0.5 * errors[0][0]


def test_token_weights(tiny_run, tiny_corpus, tiny_config):
    model = build(tiny_config, checkpoint.load_codebook(tiny_run))
    sampler = PairSampler(model, PreparedCorpus(tiny_corpus), "train", tiny_run / "codebook")
    batch = shown(sampler, 4)
    objective = CodeObjective(model, None)
    weights = objective.token_weights(batch)  # of the mouth's tokens, which alone are predicted
    changed = (batch.target_bottom != batch.reference_bottom)[:, objective.mouth]
    assert weights.shape == changed.shape and changed.any() and not changed.all()
    assert set(weights[changed].tolist()) == {1.5} and set(weights[~changed].tolist()) == {1.0}
    paper = build(tiny_config.replace({"lips.design": "paper"}), model.autoencoder)
    assert (CodeObjective(paper, None).token_weights(batch) == 1).all()


def test_a_split_without_clips_is_named(tiny_corpus, tiny_config):
    with pytest.raises(DataError, match="no clips with sound in the split 'nowhere'"):
        FrameSampler(PreparedCorpus(tiny_corpus), "nowhere", stills=False)


def test_reference_is_never_the_target():
    rng, valid = np.random.default_rng(0), np.ones(30, bool)
    yaw = np.linspace(-20, 20, 30)
    for target in (0, 15, 29):
        drawn = [draw_reference(rng, yaw, valid, target) for _ in range(200)]
        assert min(abs(np.array(drawn) - target)) > 3


def test_a_pose_twin_is_another_frame_in_nearly_the_same_pose():
    rng, valid = np.random.default_rng(0), np.ones(60, bool)
    pose = np.zeros((60, 3))
    pose[:, 0] = 10 * np.sin(np.arange(60) / 8)
    valid[40:] = False
    for target in (0, 10, 30):
        twins = np.array([draw_twin(rng, pose, valid, target) for _ in range(100)])
        assert len(set(twins)) > 1 and valid[twins].all() and (np.abs(twins - target) > 3).all()
        assert np.abs(pose[twins, 0] - pose[target, 0]).max() <= 4
    pose[5, 0] = 90
    assert draw_twin(rng, pose, valid, 5) == 5


def test_with_pose_twins_the_warp_never_sees_the_targets_own_upper_half(tiny_run, tiny_corpus, tiny_config):
    """The target's upper half then reaches the decoder alone: the lip codes cannot depend on it."""
    config = tiny_config.replace({"stage2.pose_twins": True})
    model = build(config, checkpoint.load_codebook(tiny_run)).eval()
    sampler = PairSampler(model, PreparedCorpus(tiny_corpus), "train", tiny_run / "codebook")
    batch = sampler.draw((1,), 24)
    batch = sampler.show(batch, sampler.pixels(batch, True))
    torch.nn.init.normal_(model.warping.displace[-1].weight)  # a warp that is seen
    twins = (batch.pose_upper != batch.target_upper).flatten(1).any(1)
    assert twins.float().mean() > 0.3  # where the head stays about, another frame has nearly its pose
    objective = CodeObjective(model, None).eval()
    logits = objective.predict(batch).logits
    batch.target_upper = batch.target_upper.flip(0)
    torch.testing.assert_close(objective.predict(batch).logits, logits)
    batch.pose_upper = batch.pose_upper.flip(0)
    assert not torch.allclose(objective.predict(batch).logits, logits, atol=1e-2)


def test_silence_is_heard_only_over_closed_lips(tiny_run, tiny_corpus, tiny_config, monkeypatch):
    model = build(tiny_config.replace({"stage2.silence": True}), checkpoint.load_codebook(tiny_run))
    sampler = PairSampler(model, PreparedCorpus(tiny_corpus), "train", tiny_run / "codebook")
    batch = sampler.draw((2,), 96)
    closed = batch.lips[:, 0] * LIP_SCALE <= CLOSED
    silent = (batch.audio == SILENCE).flatten(1).all(1)
    assert 0 < closed.sum() < len(closed) and 0 < silent[closed].sum() < closed.sum() and not silent[~closed].any()
    monkeypatch.setattr("lipformer_core.training.pairs.SILENT", 1.0)
    always = (sampler.draw((2,), 96).audio == SILENCE).flatten(1).all(1)
    assert torch.equal(always, closed)
    plain = build(tiny_config.replace({"stage2.silence": False}), model.autoencoder)
    batch = PairSampler(plain, PreparedCorpus(tiny_corpus), "train", tiny_run / "codebook").draw((2,), 96)
    assert not (batch.audio == SILENCE).flatten(1).all(1).any()


def test_mean_normalised_sound_is_less_the_clips_own_spectrum(tiny_run, tiny_corpus, tiny_config, monkeypatch):
    monkeypatch.setattr("lipformer_core.training.pairs.SILENT", 1.0)
    config = tiny_config.replace({"audio.mean_normalise": True, "stage2.silence": True})
    model, corpus = build(config, checkpoint.load_codebook(tiny_run)), PreparedCorpus(tiny_corpus)
    batch = PairSampler(model, corpus, "train", tiny_run / "codebook").draw((2,), 48)
    closed = batch.lips[:, 0] * LIP_SCALE <= CLOSED
    assert 0 < closed.sum() < len(closed)
    for heard, silent, (info, frame) in zip(batch.audio, closed, batch.frames, strict=True):
        clip = corpus.open(info.clip_id)
        sound = np.full((20, 80), SILENCE) if silent else clip.audio_windows([frame], 20)[0]
        np.testing.assert_allclose(heard, sound - clip.mel.mean(0), atol=1e-5)


def test_sharpening_an_earlier_run_leaves_its_codes_and_keeps_the_newest_decoder(
    tiny_config, tiny_corpus, tiny_run, tmp_path
):
    config = tiny_config.replace({"stage1.adversarial_weight": 0.5, "engine.check_every": 4})
    sharp = train_codebook(config, tiny_corpus, tmp_path, start=tiny_run)
    earlier = checkpoint.load_autoencoder(tiny_run)
    for part in ("encoder", "upper_codebook", "bottom_codebook"):
        assert checkpoint.fingerprint(getattr(sharp, part)) == checkpoint.fingerprint(getattr(earlier, part))
    assert checkpoint.fingerprint(sharp.decoder) != checkpoint.fingerprint(earlier.decoder)
    assert checkpoint.header_of(tmp_path, "codebook")["step"] == config.stage1.steps
    halve(tiny_run, tmp_path / "shipped", decoder=tmp_path)
    ours = lf.load(tmp_path / "shipped").autoencoder
    for name, weight in sharp.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], weight, atol=1e-3, rtol=1e-3, msg=name)
    sharp.encoder.requires_grad_(False).get_parameter(next(iter(sharp.encoder.state_dict()))).add_(1)
    header, tensors = checkpoint.load(tmp_path / "codebook/model.safetensors")
    checkpoint.write(
        tmp_path / "other/codebook/model.safetensors",
        tensors | {f"autoencoder.{k}": v.contiguous() for k, v in sharp.state_dict().items()},
        header,
    )
    with pytest.raises(CheckpointError, match="of other codes"):
        halve(tiny_run, tmp_path / "none", decoder=tmp_path / "other")
    log = read_log(tmp_path / "codebook")
    assert np.isfinite(np.array(log["adversarial"])).all() and np.nanmin(np.array(log["val_sharpness"])) > 0


def test_a_run_is_gone_on_from_with_the_decoder_that_stage_2_tuned_also_by_the_shipped_ones_name(
    tiny_run, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoint, "SHIPPED", tiny_run)
    tuned = checkpoint.fingerprint(checkpoint.load_lipformer(tiny_run, device="cpu").autoencoder)
    assert checkpoint.fingerprint(checkpoint.load_autoencoder(tiny_run)) == tuned
    assert checkpoint.fingerprint(checkpoint.load_autoencoder(tiny_run.name)) == tuned
    assert checkpoint.fingerprint(checkpoint.load_codebook(tiny_run)) != tuned


def test_hearing_begins_anew_and_all_else_stays(tiny_run, tmp_path):
    renew_hearing(tiny_run, tmp_path)
    before, after = Trained.load(tiny_run).state_dict(), Trained.load(tmp_path).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith(("lipformer.audio_encoder", "judges.articulation")) for name in changed)


def test_a_stage_1_without_a_log_can_be_taken_over(tiny_run, tmp_path):
    halve(tiny_run, tmp_path / "halved")
    take_over(tmp_path / "halved/codebook", tmp_path / "run/codebook")
    assert checkpoint.load_codebook(tmp_path / "run").config == checkpoint.load_codebook(tiny_run).config


def test_more_codes_than_k_means_has_tokens_are_refused_at_once(tiny_config, tiny_corpus):
    config = tiny_config.replace({"codebook.size": 2**16})
    with pytest.raises(ConfigError, match="codebook.size: 65536 codes"):
        CodebookStage(config, PreparedCorpus(tiny_corpus))


@pytest.mark.slow
def test_the_paper_preset_builds_and_takes_a_step_of_both_stages(tiny_corpus):
    """Batch of 1 on a CPU; pretrained perceptual weights are not needed for this."""
    config = preset("paper", {"stage1.perceptual": "none", "stage1.batch": 1})
    torch.manual_seed(0)
    image = torch.nn.functional.interpolate(
        torch.from_numpy(
            PreparedCorpus(tiny_corpus).open("synthetic00000").frames([3]).astype(np.float32) / 127.5 - 1
        ).permute(0, 3, 1, 2),
        size=256,
        mode="bilinear",
    )
    stage = CodebookStage(config, PreparedCorpus(tiny_corpus))
    pairs, _, looks = stage.material(0)
    encoder, decoder = stage.autoencoder.encoder, stage.autoencoder.decoder
    before = checkpoint.fingerprint(encoder), checkpoint.fingerprint(decoder)
    stage.sharpen_from = 0  # with everything that a step can have
    logged = optimise(stage, 0, [(pairs, torch.from_numpy(to_images(image)), looks)])
    assert {"l1", "vq", "discriminator"} <= set(logged)
    assert checkpoint.fingerprint(encoder) == before[0] and checkpoint.fingerprint(decoder) != before[1]
    trained = Trained(config, stage.autoencoder)
    model = trained.lipformer
    optimiser = torch.optim.AdamW(trained.predictor(), lr=1e-4)
    frozen = checkpoint.fingerprint(model.autoencoder.encoder)
    out = model(image, torch.randn(1, 20, 80), model.encode_reference(image.flip(-1)), tau=1.0)
    (out - image).abs().mean().backward()
    optimiser.step()
    assert out.shape == (1, 3, 256, 256) and torch.isfinite(out).all()
    assert checkpoint.fingerprint(model.autoencoder.encoder) == frozen


def test_presets_of_a_cpu_run():
    for name in ("small", "quick", "realtime"):
        model = build(preset(name)).eval()
        size = model.config.data.size
        image = torch.rand(1, 3, size, size) * 2 - 1
        out = model.generate(image, torch.randn(1, model.config.audio.window, 80), model.encode_reference(image))
        assert out.shape == image.shape and out.abs().max() <= 1


def test_with_the_expert_targets_come_in_runs_and_its_gradient_moves_the_mouth(
    tiny_config, tiny_corpus, tiny_run, tmp_path
):
    joint = {"sync_weight": 1.0, "batch": 10}
    config = tiny_config.replace(sync={"steps": 2, "batch": 3}, stage2={"joint": joint})
    shutil.copytree(tiny_run / "codebook", tmp_path / "codebook")
    with pytest.raises(CheckpointError, match="sync"):
        train_lipformer(config, tiny_corpus, tmp_path, progress=False)
    train_sync(config, tiny_corpus, tmp_path, progress=False)
    expert = checkpoint.fingerprint(checkpoint.load_sync(tmp_path))
    train_lipformer(config, tiny_corpus, tmp_path, progress=False)
    assert {"sync", "val_sync"} <= set(read_log(tmp_path / "lipformer"))
    assert checkpoint.fingerprint(checkpoint.load_sync(tmp_path)) == expert

    model = build(config, checkpoint.load_codebook(tmp_path))
    sampler = PairSampler(model, PreparedCorpus(tiny_corpus), "train", tmp_path / "codebook")
    batch = sampler.draw((0, 1), 10, run=5)
    for first in (0, 5):
        clips, frames = zip(*batch.frames[first : first + 5], strict=True)
        assert len({info.clip_id for info in clips}) == 1 and set(np.diff(frames)) == {1}
        sound = PreparedCorpus(tiny_corpus).open(clips[0].clip_id).audio_windows([frames[2]], AUDIO_WINDOW)
        np.testing.assert_array_equal(batch.window_sounds[first // 5], sound[0])
        assert (batch.reference_bottom[first : first + 5] == batch.reference_bottom[first]).all()
    batch = sampler.show(batch, sampler.pixels(batch, True))
    gradients = []
    for weight in (0.0, 1.0):
        weighted = config.replace({"stage2.joint.sync_weight": weight})
        torch.manual_seed(0)
        trained = Trained(weighted, checkpoint.load_codebook(tmp_path)).train()
        torch.manual_seed(0)
        objective = ImageObjective(trained.lipformer, trained.judges, checkpoint.load_sync(tmp_path))
        objective(batch, 1.0)[0].backward()
        gradients.append(next(trained.lipformer.autoencoder.decoder.parameters()).grad)
    assert not torch.allclose(*gradients)


@pytest.mark.parametrize("phase", ["warping", "lipformer"])
def test_batches_that_hold_no_whole_windows_are_refused_before_the_first_phase(
    phase, tiny_config, tiny_corpus, tiny_run
):
    config = tiny_config.replace({"stage2.joint.sync_weight": 1.0, "stage2.joint.batch": 12})
    trained = Trained(config, checkpoint.load_codebook(tiny_run))
    corpus, folder = PreparedCorpus(tiny_corpus), tiny_run / "codebook"
    samplers = [PairSampler(trained.lipformer, corpus, split, folder) for split in ("train", "val")]
    with pytest.raises(ConfigError, match=r"stage2\.joint\.batch: 12 is no multiple of 5"):
        LipFormerStage(trained, phase, *samplers, SyncNet(8))


def test_a_run_takes_over_anothers_stage_1(tiny_run, tiny_config, tiny_corpus, tmp_path):
    run, there = tmp_path / "second", sorted((tiny_run / "codebook").glob("codes_*"))
    train_lipformer(tiny_config, tiny_corpus, run, progress=False, until="warping", codebook=tiny_run)
    same = checkpoint.fingerprint(checkpoint.load_codebook(run))
    assert same == checkpoint.fingerprint(checkpoint.load_codebook(tiny_run))
    assert (run / "codebook/log.csv").read_bytes() == (tiny_run / "codebook/log.csv").read_bytes()
    # its codes are there already, and stay the only copy; another number of looks makes others beside them
    assert not list((run / "codebook").glob("codes_*"))
    assert there and sorted((tiny_run / "codebook").glob("codes_*")) == there
    looks = tiny_config.replace({"stage2.looks": 2, "stage1.augment": 0.3})
    model = build(looks, checkpoint.load_codebook(run))
    both = [PairSampler(model, PreparedCorpus(tiny_corpus), "train", tmp_path) for _ in range(2)]
    assert len(list(tmp_path.glob("codes_train_*"))) == 1 and both[0].cache.files[0].shape[1] == 2
    PairSampler(build(tiny_config, model.autoencoder), PreparedCorpus(tiny_corpus), "train", tmp_path)
    assert len(list(tmp_path.glob("codes_train_*"))) == 2
    with pytest.raises(CheckpointError, match="no finished stage"):
        train_lipformer(tiny_config, tiny_corpus, tmp_path / "third", progress=False, codebook=tmp_path)
    with pytest.raises(CheckpointError, match="no finished stage"):
        take_over(tmp_path / "third/codebook", tmp_path / "fourth")
    assert not finished(tmp_path / "third/codebook") and not finished(tmp_path / "fourth")


def test_over_a_finished_stage_1_its_own_settings_hold(tiny_run, tiny_config, tiny_corpus, tmp_path):
    """Whatever else is asked for: of stage 1 nothing can be had that it was not trained with."""
    others = {"data.size": 64, "codebook.size": 64, "codebook.dim": 4, "stage1.lr": 0.5, "stage1.mirror": False}
    asked = tiny_config.replace(others | {"stage2.apart.steps": 2, "seed": 3})
    given = dict(data=tiny_corpus, run=tmp_path, progress=False, until="warping")
    model = train_lipformer(asked, codebook=tiny_run, **given)
    expected = tiny_config.replace({"stage2.apart.steps": 2, "seed": 3})
    assert finished(tmp_path / "codebook") and model.config == expected
    assert checkpoint.config_of(tmp_path) == expected
    before = (tmp_path / "warping/model.safetensors").stat().st_mtime_ns
    train_lipformer(asked.replace({"stage1.lr": 0.7, "engine.check_every": 1}), **given)
    assert (tmp_path / "warping/model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(CheckpointError, match=r"lips\.layers"):
        train_lipformer(asked.replace({"lips.layers": 2}), **given)


def test_an_audio_encoder_goes_on_without_the_speech_features(tiny_config):
    """Columns of mel bands keep their weights, and features that are left out count as silent ones."""
    torch.manual_seed(0)
    hears_more = tiny_config.replace({"audio.speech_encoder": "moonshine"})
    earlier, trained = Trained(hears_more), Trained(tiny_config)
    trained.fill(earlier)
    heard = torch.randn(2, tiny_config.audio.window, earlier.lipformer.audio_encoder.columns)
    heard[..., 80:] = 0
    more, less = (which.eval().lipformer.audio_encoder for which in (earlier, trained))
    assert (more.columns, less.columns) == (heard.shape[-1], 80)
    torch.testing.assert_close(less(heard[..., :80]), more(heard))
    with pytest.raises(CheckpointError, match="another architecture"):
        earlier.fill(trained)  # nothing is known of the features
