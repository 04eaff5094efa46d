"""Settings of earlier versions, which were flat: where each is now, or why it is none any more."""

_NOTHING = "it changed nothing, or made it worse (papermill_runs/README.md)"
_ONE = "stage1.prevent_collapse is all three"
_DESIGN = "lips.design=ours has it, lips.design=paper has not"
_GATE = "data.quality_gate turns the gate off; data/prepared/quality.py has its limits"


def _now(name: str) -> str:
    return f"it is {name} now"


def _constant(file: str) -> str:
    return f"lipformer_core/{file} has the constant"


RENAMED = {
    **{
        old: _now(new)
        for old, new in {
            "crop_size": "data.size",
            "correct_offset": "data.correct_offset",
            "val_persons": "data.val_persons",
            "test_persons": "data.test_persons",
            "list_rows": "data.list_rows",
            "data_seed": "data.synthetic.seed",
            "synthetic_train": "the first of data.synthetic.persons",
            "synthetic_val": "the second of data.synthetic.persons",
            "synthetic_test": "the third of data.synthetic.persons",
            "synthetic_frames": "the first of data.synthetic.frames",
            "synthetic_test_frames": "the second of data.synthetic.frames",
            "synthetic_size": "data.synthetic.size",
            "base_width": "in codebook.widths",
            "width_multipliers": "in codebook.widths",
            "res_blocks": "codebook.res_blocks",
            "attention": "codebook.local",
            "norm": "codebook.local",
            "stem_stride": "codebook.stem",
            "codebook_size": "codebook.size",
            "code_dim": "codebook.dim",
            "shared_codebook": "codebook.shared",
            "prevent_collapse": "stage1.prevent_collapse",
            "stage1_steps": "stage1.steps",
            "stage1_batch": "stage1.batch",
            "stage1_lr": "stage1.lr",
            "mouth_weight": "stage1.mouth_weight",
            "perceptual": "stage1.perceptual",
            "perceptual_weight": "stage1.perceptual_weight",
            "adversarial_weight": "stage1.adversarial_weight",
            "augment_colour": "stage1.augment",
            "augment_geometry": "stage1.augment",
            "augment_mirror": "stage1.mirror",
            "reference": "lips.reference",
            "warping": "lips.ablation",
            "query_source": "lips.ablation",
            "scale_attention": "lips.ablation",
            "expected_codes": "lips.expected_codes",
            "model_dim": "lips.width",
            "layers": "lips.layers",
            "ffn_dim": "lips.ffn_width",
            "audio_dim": "lips.audio_width",
            "audio_window": "audio.window",
            "mean_normalise_audio": "audio.mean_normalise",
            "speech_encoder": "audio.speech_encoder",
            "looks": "stage2.looks",
            "pose_twin": "stage2.pose_twins",
            "silent_closed": "stage2.silence",
            "reference_mouth_dropout": "stage2.hidden_mouths",
            "articulation_weight": "stage2.lip_supervision",
            "lip_reading_weight": "stage2.lip_supervision",
            "warp_steps": "stage2.apart.steps",
            "listen_steps": "stage2.apart.steps",
            "cached_steps": "stage2.cached.steps",
            "cached_batch": "stage2.cached.batch",
            "stage2_lr": "stage2.cached.lr",
            "joint_steps": "stage2.joint.steps",
            "joint_batch": "stage2.joint.batch",
            "joint_lr": "stage2.joint.lr",
            "joint_perceptual_weight": "stage2.joint.perceptual_weight",
            "joint_adversarial_weight": "stage2.joint.adversarial_weight",
            "joint_sync_weight": "stage2.joint.sync_weight",
            "sync_width": "sync.width",
            "sync_steps": "sync.steps",
            "sync_batch": "sync.batch",
            "sync_lr": "sync.lr",
            "accumulate": "optimiser.accumulate",
            "weight_average": "optimiser.weight_average",
            "precision": "engine.precision",
            "compile": "engine.compile",
            "deterministic": "engine.deterministic",
            "workers": "engine.workers",
            "eval_every": "engine.check_every",
            "save_every": "engine.check_every",
        }.items()
    },
    **dict.fromkeys(("audio_neighbours", "audio_gain", "audio_noise", "normalise_codes"), _NOTHING),
    **dict.fromkeys(("codebook_init", "codebook_warmup", "revive_dead_codes"), _ONE),
    **dict.fromkeys(("codebook_update", "codebook_decay"), "codes learn by Eq. 3 alone"),
    **dict.fromkeys(("residual_head", "free_logits", "position_embedding", "self_attention", "warp_corners"), _DESIGN),
    **dict.fromkeys(
        (
            *("min_eye_distance", "min_sharpness", "max_yaw", "max_other_face", "min_run"),
            *("min_face_share", "min_speech", "max_offset"),
        ),
        _GATE,
    ),
    "heads": _constant("config.py"),
    "transform_sigma": _constant("data/faces/alignment.py"),
    "detect_every": _constant("data/faces/tracking.py"),
    **dict.fromkeys(("image_format", "jpeg_quality", "clip_frames"), _constant("data/prepared/extraction.py")),
    "shard_megabytes": _constant("data/prepared/prepare.py"),
    "beta": _constant("model/codebook.py"),
    **dict.fromkeys(("adversarial_start", "l1_weight", "vq_weight"), _constant("training/codebook.py")),
    "warp_max_shift": _constant("model/warping.py"),
    "discriminator_width": _constant("model/discriminator.py"),
    "speech_dropout": _constant("training/pairs.py"),
    **dict.fromkeys(
        (
            *("warp_lr", "decoder_lr", "gumbel_tau_start", "gumbel_tau_end", "weight_decay"),
            *("image_weight", "cross_entropy_weight"),
        ),
        _constant("training/lipformer.py"),
    ),
    **dict.fromkeys(
        (
            *("latent_weight", "warp_supervision", "mouth_token_weight", "changed_token_weight"),
            *("warp_landmark_weight", "warp_feature_weight"),
        ),
        _constant("training/objectives.py"),
    ),
    "warp_width": "half of lips.width",
    **dict.fromkeys(("sync_frames", "sync_audio_window", "sync_dim"), _constant("model/syncnet.py")),
    **dict.fromkeys(
        (
            *("sync_max_shift", "sync_colour", "sync_geometry", "sync_gain", "sync_noise"),
            "sync_articulation_weight",
        ),
        _constant("training/sync_sampling.py"),
    ),
    **dict.fromkeys(
        ("warmup_steps", "grad_clip", "log_every", "keep_checkpoints", "eval_images"), _constant("training/loop.py")
    ),
    "resident": "a GPU keeps what fits in its memory by itself",
}
