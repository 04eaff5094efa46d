"""The presets: what each sets otherwise than `config.Config` does by itself, which is the paper's."""

# from nothing, for experiments that train often and compare at equal minutes
SMALL: dict = {
    "data": {"size": 96, "synthetic": {"persons": (300, 8, 16), "frames": (32, 75), "size": 128}},
    "codebook": {"widths": (64,), "res_blocks": 2, "stem": 6, "local": True, "size": 256, "dim": 32},
    "lips": {"design": "ours", "width": 128, "layers": 2, "ffn_width": 256, "audio_width": 128},
    "stage1": {
        "steps": 2000, "batch": 16, "lr": 1.5e-3, "prevent_collapse": True, "mouth_weight": 2.0,
        "perceptual": "none", "perceptual_weight": 0.0, "adversarial_weight": 0.0,
    },
    "stage2": {
        "silence": True, "lip_supervision": True,
        "apart": {"steps": 1000}, "cached": {"steps": 800, "batch": 32, "lr": 1e-3},
        "joint": {"steps": 500, "batch": 12, "lr": 5e-4, "perceptual_weight": 0.0},
    },
    "sync": {"width": 24, "steps": 400, "batch": 12, "lr": 1e-3},
    "wav2lip": {"steps": 850},
    "optimiser": {"weight_average": 0.995},
    "engine": {"check_every": 300},
}  # fmt: skip

REALTIME: dict = {
    "codebook": {"widths": (128,), "res_blocks": 3, "stem": 8, "local": True, "size": 2048, "dim": 32},
    "audio": {"window": 44, "mean_normalise": True},
    "lips": {
        "design": "ours", "reference": "own", "keep_reference": 1.0, "width": 128, "layers": 2, "ffn_width": 256,
        "audio_width": 160,
    },
    "stage1": {
        "steps": 3800, "batch": 8, "lr": 1.2e-3, "prevent_collapse": True, "mouth_weight": 1.0,
        "perceptual": "squeezenet", "perceptual_weight": 0.5, "adversarial_weight": 0.0, "augment": 1.0,
    },
    "stage2": {
        "looks": 2, "pose_twins": True, "silence": True, "lip_supervision": True,
        "apart": {"steps": 3000}, "cached": {"steps": 1000, "batch": 16, "lr": 1e-3},
        "joint": {"steps": 3000, "batch": 8, "lr": 5e-4, "perceptual_weight": 0.5},
    },
    "optimiser": {"weight_average": 0.998},
}  # fmt: skip

# goes on from the pretrained weights, which never saw persons of seed 1; `codebook` and `stage1` are of the small
# one that notebook 02 trains from nothing
QUICK: dict = {
    "data": {"synthetic": {"seed": 1, "persons": (80, 6, 8), "frames": (36, 50)}},
    "codebook": {"widths": (64,), "res_blocks": 2, "stem": 8, "local": True, "size": 256, "dim": 32},
    "audio": REALTIME["audio"], "lips": REALTIME["lips"],
    "stage1": {
        "steps": 400, "batch": 8, "lr": 1.5e-3, "prevent_collapse": True, "mouth_weight": 1.0,
        "perceptual": "none", "perceptual_weight": 0.0, "adversarial_weight": 0.0,
    },
    "stage2": {
        "pose_twins": True, "silence": True, "lip_supervision": True,
        "apart": {"steps": 600}, "cached": {"steps": 150, "batch": 16, "lr": 1e-3},
        "joint": {"steps": 120, "batch": 8, "lr": 5e-4, "perceptual_weight": 0.0},
    },
    "sync": {"width": 24, "steps": 300, "batch": 12, "lr": 1e-3},
    "wav2lip": {"steps": 300},
    "optimiser": {"weight_average": 0.99},
    "engine": {"check_every": 50},
}  # fmt: skip

# for tests, and to see every step of the way in seconds; nothing that it draws is worth showing
TINY: dict = {
    "data": {"size": 32, "synthetic": {"persons": (6, 2, 2), "frames": (14, 16), "size": 64}},
    "codebook": {"widths": (16, 32), "res_blocks": 1, "stem": 2, "local": True, "size": 32, "dim": 8},
    "lips": {"design": "ours", "width": 32, "layers": 1, "ffn_width": 16, "audio_width": 16},
    "stage1": {
        "steps": 12, "batch": 4, "lr": 1.5e-3, "prevent_collapse": True, "mouth_weight": 2.0,
        "perceptual": "none", "perceptual_weight": 0.0, "adversarial_weight": 0.0,
    },
    "stage2": {
        "silence": True, "lip_supervision": True,
        "apart": {"steps": 3}, "cached": {"steps": 4, "batch": 4, "lr": 1e-3},
        "joint": {"steps": 3, "batch": 2, "lr": 2e-4, "perceptual_weight": 0.0},
    },
    "sync": {"width": 8, "steps": 6, "batch": 4, "lr": 1e-3},
    "wav2lip": {"steps": 6},
    "optimiser": {"weight_average": 0.995},
    "engine": {"check_every": 4},
}  # fmt: skip

PRESETS: dict[str, dict] = {"tiny": TINY, "small": SMALL, "quick": QUICK, "realtime": REALTIME, "paper": {}}
