"""One frozen dataclass holds every setting; a preset is one instance of it.

Everything that the paper (as far as we hold it) leaves open is an option here; the defaults of the preset
`paper` are the paper's form, the other presets say where they differ.
"""

import dataclasses
import itertools
import math
import typing
from dataclasses import dataclass

from .errors import ConfigError


@dataclass(frozen=True)
class Config:
    """All settings of data, model and training. Sizes in pixels, lengths in frames, rates per step."""

    preset: str = "paper"
    seed: int = 0

    # --- data -----------------------------------------------------------------------------------
    crop_size: int = 256  # side of the aligned face crop; halves are crop_size/2 high
    transform_sigma: float = 1.5  # frames; temporal smoothing of the crop transform
    image_format: str = "jpeg"  # of the stored crops: "jpeg" or "webp"
    jpeg_quality: int = 95  # of either
    clip_frames: int = 750  # longest prepared clip; longer videos become several
    shard_megabytes: int = 256  # largest shard
    detect_every: int = 1  # frames between two looks at the whole picture; a face alone is followed in between
    correct_offset: bool = False  # move the sound of a clip by its estimated constant offset
    min_eye_distance: float = 12.0  # quality gate: px in the source between the eyes' centres
    min_sharpness: float = 0.01  # share of fine detail, as `data.prepared.quality.sharpness` measures it
    max_yaw: float = 60.0  # degrees; beyond, half the mouth is hidden
    max_other_face: float = 0.8  # size of another face in the picture in units of this one's
    min_run: int = 12  # frames in a row that are fit
    min_face_share: float = 0.02  # of a clip's frames
    min_speech: float = 0.05  # share of the time
    max_offset: int = 8  # frames by which picture and sound may be out of step
    val_persons: tuple[str, ...] = ()  # with either of these two, exactly the persons named are held out,
    test_persons: tuple[str, ...] = ()  # whatever the corpus's own splits
    list_rows: str = ""  # COLUMN=PATTERN: of a list's rows only those whose column matches the regular expression
    data_seed: int = 0  # of the embedded corpus; `seed` is training's
    synthetic_train: int = 600  # persons of the embedded corpus
    synthetic_val: int = 16
    synthetic_test: int = 32
    synthetic_frames: int = 50  # frames a training person
    synthetic_test_frames: int = 75
    synthetic_size: int = 320  # side of the rendered source frame

    # --- stage 1: Enc, C_U, C_B, Dec ------------------------------------------------------------
    base_width: int = 128
    width_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)  # one per resolution; len-1 halvings
    res_blocks: int = 2
    attention: bool = True  # self-attention at the lowest resolution, as in VQGAN
    norm: str = "group"  # "group" as in VQGAN; "channel": per pixel, so that half a face can be decoded alone
    stem_stride: int = 1  # >1: pixel-unshuffle before the first convolution (cheap on a CPU)
    codebook_size: int = 1024  # K
    code_dim: int = 256  # d
    normalise_codes: bool = False  # l2-normalised codes
    prevent_collapse: bool = False  # first unquantised, then k-means, then unused codes are moved; ours
    beta: float = 0.25  # weight of the commitment term of Eq. 3
    shared_codebook: bool = False  # ablation: one codebook for both halves

    stage1_steps: int = 800_000
    stage1_batch: int = 32
    stage1_lr: float = 4.5e-6 * 32
    mouth_weight: float = 0.0  # extra L1 weight on the bottom half's centre
    perceptual: str = "lpips"  # "lpips", "squeezenet" (ImageNet features from a file), or "none"
    perceptual_weight: float = 1.0
    adversarial_weight: float = 0.8
    adversarial_start: int = 30_000  # step
    augment_colour: float = 0.0  # strength of random light, contrast, tint and gamma; 0 = none
    augment_geometry: float = 0.0  # strength of random turns, zooms and shifts; 0 = none
    augment_mirror: bool = True

    # --- stage 2: F_e, F_d, E_aud, Transformer, Dec fine-tuned ----------------------------------
    reference: str = "one"  # "one" frame a clip, "nearest" in pose, or "own": see data/prepared/references.py
    warping: bool = True
    warp_width: int = 128
    warp_corners: bool = False  # the Transformer also sees the tokens that the warp read between, and where; ours
    model_dim: int = 256  # width of the Transformer; equal to code_dim: Z_0 is the warped reference itself
    layers: int = 8
    heads: int = 8
    ffn_dim: int = 1024
    audio_window: int = 20  # mel frames around a video frame that the audio encoder sees (20 = 0.2 s)
    mean_normalise_audio: bool = False  # a recording's average spectrum is taken off its sound; ours
    speech_encoder: str = "none"  # "moonshine": a pretrained encoder's features beside the mel bands; ours
    speech_dropout: float = 0.0  # share of training samples without them, so that the model works where they are absent
    audio_dim: int = 256  # width of the audio condition
    scale_attention: bool = False  # the 1/sqrt(d) that Eq. 9 as printed omits
    query_source: str = "reference"  # Eq. 8 as printed: the warped reference in every layer; "z": Z_i
    residual_head: bool = False  # logits by distance of (warped reference + residual) to the codes, not a linear map
    free_logits: bool = False  # beside the residual head's distances a linear map to logits, for what is no mean; ours
    position_embedding: bool = False
    self_attention: bool = False  # among the spatial tokens of one frame; ours, not in the paper
    gumbel_tau_start: float = 1.0
    gumbel_tau_end: float = 0.3
    expected_codes: bool = False  # the decoder gets the mean of the codes by their probability, not one of them; ours

    warp_steps: int = 0  # >0: first the warping alone, supervised by landmarks and target features; ours
    warp_lr: float = 1e-3
    listen_steps: int = 0  # >0: then the audio encoder alone, by lips read from F_Aud, on cached_batch samples; ours
    looks: int = 1  # of a clip in stage 2: as filmed, and the rest by stage 1's augmentation
    cached_steps: int = 0  # >0: then cross entropy on cached codes, without the decoder; ours
    cached_batch: int = 64
    stage2_lr: float = 3e-4
    joint_steps: int = 100_000  # end to end with the decoder, as in the paper
    joint_batch: int = 16
    joint_lr: float = 1e-4
    decoder_lr: float = 2e-5
    latent_weight: float = 0.0  # regression of the residual head's latents to the target's codes
    articulation_weight: float = 0.0  # lip opening and width must be readable from F_Aud by a linear map
    lip_reading_weight: float = 0.0  # a reader, trained on true codes, must find the true lips in the expected codes
    joint_perceptual_weight: float = 1.0
    joint_adversarial_weight: float = 0.0
    joint_sync_weight: float = 0.0  # of the sync expert's distance, end to end; batches are then runs of frames
    warp_supervision: float = 0.0  # weight of the warp's own supervision after its phase
    pose_twin: float = 0.0  # share of training samples whose warp sees the upper half of another frame in that pose
    mouth_token_weight: float = 1.0  # cross-entropy weight of tokens in the mouth
    changed_token_weight: float = 1.0  # and of tokens whose code differs from the reference's
    reference_mouth_dropout: float = 0.0  # share of samples whose reference hides its mouth tokens
    silent_closed: float = 0.0  # share of samples with closed lips whose sound is replaced by silence

    # --- sync expert: ours, for a loss and a measurement -----------------------------------------
    sync_frames: int = 5  # consecutive frames of a window: 0.2 s
    sync_audio_window: int = 32  # mel frames around the window's middle: the same 0.2 s and 0.06 s on either side
    sync_width: int = 64  # channels at the first level of both towers
    sync_dim: int = 256  # of the embeddings
    sync_max_shift: int = 7  # frames; the windows of one clip in a batch lie 0 to so many apart
    sync_steps: int = 100_000
    sync_batch: int = 32  # clips; each brings sync_max_shift + 1 windows
    sync_lr: float = 5e-4

    # --- engine ---------------------------------------------------------------------------------
    weight_decay: float = 0.01
    warmup_steps: int = 200
    grad_clip: float = 1.0
    accumulate: int = 1  # batches a step and process, each of the stage's batch size
    weight_average: float = 0.0  # decay of the moving averages of weights that are evaluated and kept; 0: none
    precision: str = "no"  # mixed precision: "bf16", "fp16", or "no": as `accelerate launch` says, else none
    resident: bool = False  # all training frames decoded in the device's memory: for a GPU, and corpora that fit
    workers: int = 0  # processes that make batches ready; 0: one thread
    compile: bool = False  # torch.compile the networks of training; needs a C++ compiler, and Triton on a GPU
    deterministic: bool = False  # only deterministic algorithms; slower on a GPU
    log_every: int = 25
    eval_every: int = 500
    save_every: int = 500
    keep_checkpoints: int = 2  # states to resume from, the newest ones
    eval_images: int = 256

    def __post_init__(self) -> None:
        for name, kind in typing.get_type_hints(type(self)).items():
            _check_type(name, getattr(self, name), kind)
            _check_range(name, getattr(self, name), kind)
        if self.crop_size % (2 * self.downsampling):
            raise ConfigError(f"crop_size: {self.crop_size} is not a multiple of {2 * self.downsampling}")
        if self.model_dim % self.heads:
            raise ConfigError(f"heads: {self.heads} does not divide model_dim {self.model_dim}")
        if self.sync_width % 8:
            raise ConfigError(f"sync_width: {self.sync_width} is not a multiple of 8")
        if self.jpeg_quality > 100:
            raise ConfigError(f"jpeg_quality: {self.jpeg_quality} is more than 100")
        if self.weight_average == 1:
            raise ConfigError("weight_average: averages of decay 1 never move; below 1, or 0 for none")
        if self.joint_sync_weight and self.joint_batch % self.sync_frames:
            raise ConfigError(f"joint_batch: {self.joint_batch} is no multiple of sync_frames {self.sync_frames}")
        if self.warp_corners and not self.warping:
            raise ConfigError("warp_corners: without warping nothing is read between tokens; set warping")
        if self.listen_steps and not self.articulation_weight:
            raise ConfigError("listen_steps: nothing reads lips from F_Aud; set articulation_weight")
        if self.speech_dropout and self.speech_encoder == "none":
            raise ConfigError("speech_dropout: without a speech_encoder there are no features to leave out")
        if self.free_logits and not self.residual_head:
            raise ConfigError("free_logits: without residual_head all logits are free")
        if self.latent_weight and not self.residual_head:
            raise ConfigError("latent_weight: only the residual head has latents; set residual_head")
        if both := sorted(set(self.val_persons) & set(self.test_persons)):
            raise ConfigError(f"val_persons, test_persons: {', '.join(both)} in both")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}: {getattr(self, name)!r} is none of {', '.join(map(repr, allowed))}")

    @property
    def downsampling(self) -> int:
        """Pixels per token side."""
        return self.stem_stride * 2 ** (len(self.width_multipliers) - 1)

    @property
    def token_grid(self) -> tuple[int, int]:
        """(rows, columns) of tokens in one half: (h/2, w) of the whole."""
        side = self.crop_size // self.downsampling
        return side // 2, side

    def replace(self, **changes: object) -> "Config":
        """A copy with other values; ConfigError names an unknown or ill-typed field, or one out of its range.

        `preset` is no setting to replace: the name alone would change nothing.
        """
        if "preset" in changes:
            raise ConfigError(
                f"preset: setting {changes['preset']!r} would change the name alone; choose a preset by --preset, in "
                "notebooks and runs by the parameter `preset`"
            )
        return self._with(changes)

    def _with(self, changes: dict) -> "Config":
        known = {f.name for f in dataclasses.fields(self)}
        unknown = sorted(set(changes) - known)
        if retired := [name for name in unknown if name in RETIRED]:
            raise ConfigError("; ".join(f"{name}: no setting any more: {RETIRED[name]}" for name in retired))
        if unknown:
            raise ConfigError(f"unknown setting {', '.join(unknown)}; lipformer_core/config.py lists them all")
        lists = {k: tuple(v) for k, v in changes.items() if isinstance(v, list)}
        return dataclasses.replace(self, **{**changes, **lists})

    def decisive(self, stage: str) -> dict:
        """The settings that a finished stage ("codebook", a phase of stage 2, or "sync") depends on.

        Stage 1 knows nothing of stage 2's settings, and the sync expert has its own alone. The preset's name, and how
        a machine computes, logs, validates and saves, decide nothing.
        """
        names = [f.name for f in dataclasses.fields(self)]
        starts = ("transform_sigma", "base_width", "reference", "sync_frames", "weight_decay")  # first of each group
        data, stage_1, stage_2, sync = (
            set(names[names.index(first) : names.index(after)]) for first, after in itertools.pairwise(starts)
        )
        others = {"codebook": stage_2 | sync | {"weight_decay"}, "sync": stage_1 | stage_2}.get(stage, sync)
        ignored = data | others  # the data's hash tells
        ignored |= {"preset", "precision", "compile", "deterministic", "resident", "workers"}
        ignored |= {"log_every", "eval_every", "save_every", "keep_checkpoints", "eval_images"}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in self.to_dict().items() if k not in ignored}

    def to_dict(self) -> dict:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


_CHOICES = {
    "image_format": ("jpeg", "webp"),
    "norm": ("group", "channel"),
    "perceptual": ("lpips", "squeezenet", "none"),
    "precision": ("no", "bf16", "fp16"),
    "query_source": ("z", "reference"),
    "reference": ("one", "nearest", "own"),
    "speech_encoder": ("none", "moonshine"),
}


_MAY_BE_0 = {  # of the whole numbers
    "seed", "data_seed", "max_offset", "synthetic_train", "synthetic_val", "synthetic_test", "res_blocks", "layers",
    "adversarial_start", "warp_steps", "listen_steps", "cached_steps", "warmup_steps",
    "sync_max_shift", "workers",
}  # fmt: skip
_SHARES = {
    "min_face_share", "min_speech", "pose_twin", "reference_mouth_dropout",
    "silent_closed", "speech_dropout", "weight_average",
}  # fmt: skip
_ABOVE_0 = {"gumbel_tau_start", "gumbel_tau_end", "grad_clip"}


def _check_range(name: str, value: object, kind: type) -> None:
    """Every number is finite and none is negative; some have narrower bounds."""
    for number in value if isinstance(value, tuple) else [value]:
        if isinstance(number, (bool, str)):
            continue
        if not 0 <= number < math.inf:  # not true of NaN
            raise ConfigError(f"{name}: {number} is no finite number from 0 on")
        if number < 1 and kind is not float and name not in _MAY_BE_0:
            raise ConfigError(f"{name}: {number} is less than 1")
        if number > 1 and name in _SHARES:
            raise ConfigError(f"{name}: {number} is more than 1, the whole")
        if number == 0 and name in _ABOVE_0:
            raise ConfigError(f"{name}: has to be above 0")


def _check_type(name: str, value: object, kind: type) -> None:
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        if not isinstance(value, tuple) or not all(_is_of(v, item) for v in value):
            raise ConfigError(f"{name}: {value!r} is no list of {item.__name__}")
    elif not _is_of(value, kind):
        raise ConfigError(f"{name}: {value!r} is not of type {getattr(kind, '__name__', kind)}")


def _is_of(value: object, kind: type) -> bool:
    allowed = (int, float) if kind is float else kind
    return isinstance(value, allowed) and (kind is bool or not isinstance(value, bool))


_NOTHING = "it changed nothing, or made it worse (papermill_runs/README.md)"
_ONE = "prevent_collapse is all three"
RETIRED = {  # settings of earlier versions, still in their files, and why they are gone
    "audio_neighbours": _NOTHING, "audio_gain": _NOTHING, "audio_noise": _NOTHING,
    "codebook_update": "codes learn by Eq. 3 alone", "codebook_decay": "codes learn by Eq. 3 alone",
    "codebook_init": _ONE, "codebook_warmup": _ONE, "revive_dead_codes": _ONE,
    **dict.fromkeys(("l1_weight", "vq_weight", "image_weight", "cross_entropy_weight"), "its weight is 1"),
    **dict.fromkeys(("warp_landmark_weight", "warp_feature_weight", "sync_articulation_weight"), "its weight is 1"),
    "warp_max_shift": "model/warping.py has the constant", "discriminator_width": "model/discriminator.py has it",
    **dict.fromkeys(("sync_colour", "sync_geometry", "sync_gain", "sync_noise"), "training/sync_sampling.py has it"),
}  # fmt: skip

_QUICK = dict(
    preset="quick",
    crop_size=96, synthetic_train=300, synthetic_val=8, synthetic_test=16, synthetic_frames=32,
    synthetic_test_frames=75, synthetic_size=128,
    base_width=64, width_multipliers=(1,), res_blocks=2, attention=False, norm="channel", stem_stride=6,
    codebook_size=256, code_dim=32, normalise_codes=False,
    prevent_collapse=True,
    stage1_steps=2000, stage1_batch=16, stage1_lr=1.5e-3, perceptual="none", perceptual_weight=0.0,
    adversarial_weight=0.0, mouth_weight=2.0,
    warp_width=64, model_dim=128, layers=2, heads=4, ffn_dim=256, audio_dim=128,
    scale_attention=True, query_source="z", warp_supervision=0.1,
    residual_head=True, position_embedding=True, self_attention=True,
    warp_steps=400, warp_lr=2e-3, cached_steps=2000, cached_batch=32, stage2_lr=1e-3,
    joint_steps=400, joint_batch=12, joint_lr=2e-4, decoder_lr=1e-4, joint_perceptual_weight=0.0,
    mouth_token_weight=3.0, changed_token_weight=1.5, reference_mouth_dropout=0.3,
    latent_weight=3.0, articulation_weight=1.0, silent_closed=0.5, lip_reading_weight=5.0,
    sync_width=24, sync_dim=128, sync_steps=400, sync_batch=12, sync_lr=1e-3,
    warmup_steps=50, weight_average=0.995, log_every=25, eval_every=300, save_every=300,
)  # fmt: skip

_REALTIME = dict(
    preset="realtime",
    crop_size=256,
    base_width=128, width_multipliers=(1,), res_blocks=3, attention=False, norm="channel", stem_stride=8,
    codebook_size=2048, code_dim=32, normalise_codes=False,
    prevent_collapse=True,
    stage1_steps=3800, stage1_batch=8, stage1_lr=1.2e-3, mouth_weight=1.0,
    perceptual="squeezenet", perceptual_weight=0.5,
    adversarial_weight=0.0, augment_colour=0.3, augment_geometry=0.5, warmup_steps=100, weight_average=0.998,
    warp_width=64, model_dim=128, layers=2, heads=4, ffn_dim=256, audio_dim=160,
    scale_attention=True, query_source="z", warp_steps=20_000, cached_steps=100_000, warp_supervision=0.1,
    residual_head=True, free_logits=True, position_embedding=True, self_attention=True,
    mouth_token_weight=3.0, changed_token_weight=1.5, reference_mouth_dropout=0.3, pose_twin=1.0, silent_closed=0.5,
    lip_reading_weight=5.0,
)  # fmt: skip

PRESETS: dict[str, dict] = {"quick": _QUICK, "realtime": _REALTIME, "paper": dict(preset="paper")}


def preset(name: str, /, **overrides: object) -> Config:
    """The settings of a preset with some fields replaced.

    Raises ConfigError for an unknown preset, an unknown field, or a value of the wrong type or out of its range.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset: {name!r} is none of {', '.join(PRESETS)}")
    return from_dict(PRESETS[name]).replace(**overrides)


def from_dict(values: dict) -> Config:
    """Rebuild a Config from `to_dict`'s JSON, of this version or an earlier one.

    Raises ConfigError as `Config.replace`, and for a model with parts that are no more.
    """
    if values.get("audio_neighbours") or values.get("codebook_update", "gradient") != "gradient":
        raise ConfigError("audio_neighbours, codebook_update: made by an earlier version, with parts that are no more")
    present = {name: value for name, value in values.items() if name not in RETIRED}
    if "codebook_init" in values:
        present["prevent_collapse"] = values["codebook_init"] == "kmeans"
    return Config()._with(present)
