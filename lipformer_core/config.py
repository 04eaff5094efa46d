"""All settings: nested frozen dataclasses, one a concern; a preset is one instance of them.

Everything that the paper (as far as we hold it) leaves open is an option here. The defaults are the paper's form, which
is the preset `paper`; the other presets say where they differ. pydantic checks names, types and ranges: OmegaConf knows
no ranges, tyro only command lines, and settings stay plain dataclasses to readers, editors and type checkers.
Sizes are in pixels, lengths in frames, rates per step.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, Strict, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from .errors import ConfigError
from .presets import PRESETS
from .renamed import RENAMED

part = dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))

Flag = Annotated[bool, Strict()]
Count = Annotated[int, Strict(), Field(ge=0)]
Size = Annotated[int, Strict(), Field(ge=1)]
Weight = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)]
Names = tuple[Annotated[str, Strict()], ...]
Sizes = Annotated[tuple[Size, ...], Field(min_length=1)]


@part
class Synthetic:
    """The embedded corpus."""

    seed: Count = 0  # of the persons; the settings' own `seed` is training's
    persons: tuple[Count, Count, Count] = (600, 16, 32)  # that train, validate and test
    frames: tuple[Size, Size] = (50, 75)  # of a person that trains, and of any other
    size: Annotated[int, Strict(), Field(ge=16)] = 320  # side of the rendered picture, before the face is cut out


@part
class DataSettings:
    """What preparation makes of a corpus."""

    size: Size = 256  # side of the aligned face crop; a half is size/2 high
    quality_gate: Flag = True  # leave out what is blurred, small, turned or out of step: prepared/quality.py
    correct_offset: Flag = False  # move the sound of a clip by its estimated constant offset
    val_persons: Names = ()  # with either of these two, exactly the persons named are held out,
    test_persons: Names = ()  # whatever the corpus's own splits
    list_rows: Annotated[str, Strict()] = ""  # COLUMN=PATTERN: of a list, the rows whose column matches the pattern
    synthetic: Synthetic = Synthetic()


@part
class CodebookSettings:
    """Enc, C_U, C_B and Dec."""

    widths: Sizes = (128, 128, 256, 256, 512)  # channels, one a resolution; the resolution halves between them
    res_blocks: Count = 2  # a resolution
    stem: Size = 1  # above 1: pixel-unshuffle by so much before the first convolution (cheap on a CPU)
    local: Flag = False  # norms per pixel and no attention, so that half a face can be decoded alone; else VQGAN's form
    size: Annotated[int, Strict(), Field(ge=1, le=2**16)] = 1024  # K
    dim: Size = 256  # d
    shared: Flag = False  # ablation: one codebook for both halves

    @property
    def downsampling(self) -> int:
        """Pixels per token side."""
        return self.stem * 2 ** (len(self.widths) - 1)


@part
class AudioSettings:
    """What the model hears around a frame."""

    window: Size = 20  # mel frames of 10 ms
    mean_normalise: Flag = False  # a recording's average spectrum is taken off; ours
    speech_encoder: Literal["none", "moonshine"] = "none"  # a pretrained encoder's features beside the mel bands; ours


@part
class LipsSettings:
    """The warping, E_aud and the Transformer."""

    design: Literal["paper", "ours"] = "paper"  # model/, or with what goes beyond the paper, model/ours/
    reference: Literal["one", "nearest", "own"] = "one"  # the reference of a frame: data/prepared/references.py
    keep_reference: Weight = 0.0  # outside of training the moved reference weighs again, and its detail stays; ours
    width: Size = 256  # of the Transformer; equal to the codes' d: Z_0 is the warped reference itself
    layers: Size = 8
    ffn_width: Size = 1024
    audio_width: Size = 256  # of the condition F_Aud
    # trained_codes: the last phase trains C_U and C_B on; over a stage 1 of one step, none is pre-learned
    ablation: Literal[
        "none", "no_warping", "no_reference", "reference_queries", "unscaled", "likeliest_codes", "mean_codes",
        "frozen_decoder", "trained_codes",
    ] = "none"  # fmt: skip


@part
class Stage1:
    """Training of Enc, C_U, C_B and Dec."""

    steps: Size = 800_000
    batch: Size = 32
    lr: Weight = 4.5e-6 * 32
    prevent_collapse: Flag = False  # first unquantised, then k-means, then unused codes are moved; ours
    mouth_weight: Weight = 0.0  # extra L1 weight on the mouth
    perceptual: Literal["none", "lpips", "squeezenet"] = "lpips"  # the network, of stage 2 too; from a file
    perceptual_weight: Weight = 1.0
    adversarial_weight: Weight = 0.8  # in the last third of the steps
    augment: Weight = 0.0  # strength of random light, contrast, tint, gamma, turns, zooms and shifts; 1: as we use it
    mirror: Flag = True


@part
class Apart:
    """First phase of stage 2, ours: the warping alone by landmarks and features, E_aud alone by the lips."""

    steps: Count = 0


@part
class Cached:
    """Second phase of stage 2, ours: cross entropy on cached codes, without the decoder."""

    steps: Count = 0
    batch: Size = 64  # of the phase before, too
    lr: Weight = 3e-4


@part
class Joint:
    """Last phase of stage 2, the paper's: end to end with the decoder."""

    steps: Size = 100_000
    batch: Size = 16
    lr: Weight = 1e-4
    perceptual_weight: Weight = 1.0
    adversarial_weight: Weight = 0.0
    sync_weight: Weight = 0.0  # of the sync expert's distance; batches are then runs of frames


@part
class Stage2:
    """Training of the warping, E_aud, the Transformer and Dec over the frozen rest."""

    looks: Size = 1  # of a clip: as filmed, and the rest by stage 1's augmentation
    pose_twins: Flag = False  # the warping sees the upper half of another frame in that pose; ours
    silence: Flag = False  # some samples with closed lips are silent; ours
    lip_supervision: Flag = False  # lips must be readable from F_Aud and from the predicted codes; ours
    apart: Apart = Apart()
    cached: Cached = Cached()
    joint: Joint = Joint()


@part
class SyncSettings:
    """The sync expert: ours, for a loss and a measurement."""

    width: Annotated[int, Strict(), Field(ge=8, multiple_of=8)] = 64  # channels at the first level of both towers
    steps: Size = 100_000
    batch: Size = 32  # clips
    lr: Weight = 5e-4


@part
class Wav2LipSettings:
    """The baseline, a generator after Wav2Lip; its size follows from the crop's and from `lips.width`."""

    steps: Size = 100_000  # in `small` so many that it trains as long as stage 2


@part
class Optimiser:
    """What all trainings have in common."""

    accumulate: Size = 1  # batches a step and process, each of the stage's batch size
    weight_average: Annotated[float, Strict(), Field(ge=0, lt=1)] = 0.0  # decay of what is evaluated; 0: none


@part
class Engine:
    """How a machine computes; no finished stage depends on it."""

    precision: Literal["no", "bf16", "fp16"] = "no"  # "no": as `accelerate launch` says, else float32
    compile: Flag = False  # torch.compile; needs a C++ compiler, and Triton on a GPU
    deterministic: Flag = False  # only deterministic algorithms; slower on a GPU
    workers: Count = 0  # processes that make batches ready; 0: one thread
    check_every: Size = 500  # steps between two validations, and two states to resume from


@part
class Config:
    """All settings of data, model and training."""

    preset: Annotated[str, Strict()] = "paper"  # a name, no setting
    seed: Annotated[int, Strict(), Field(ge=0, lt=2**32)] = 0
    data: DataSettings = DataSettings()
    codebook: CodebookSettings = CodebookSettings()
    audio: AudioSettings = AudioSettings()
    lips: LipsSettings = LipsSettings()
    stage1: Stage1 = Stage1()
    stage2: Stage2 = Stage2()
    sync: SyncSettings = SyncSettings()
    wav2lip: Wav2LipSettings = Wav2LipSettings()
    optimiser: Optimiser = Optimiser()
    engine: Engine = Engine()

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        if self.data.size % (2 * self.codebook.downsampling):
            raise ValueError(f"data.size: {self.data.size} is not a multiple of {2 * self.codebook.downsampling}")
        if not self.codebook.local and any(width % 32 for width in self.codebook.widths):
            raise ValueError("codebook.widths: norms of VQGAN's form need multiples of 32; or set codebook.local")
        if self.lips.width % HEAD_WIDTH:
            raise ValueError(f"lips.width: {self.lips.width} is not a multiple of {HEAD_WIDTH}")
        if self.lips.design == "paper" and (
            self.lips.reference == "own"
            or self.lips.keep_reference
            or self.lips.ablation not in ("none", "frozen_decoder", "trained_codes")
        ):
            raise ValueError("lips.design: the paper's has no other ablation, no keep_reference and no reference=own")
        if self.lips.keep_reference and self.lips.ablation == "no_reference":
            raise ValueError("lips.keep_reference: lips.ablation=no_reference leaves none to keep")
        if both := sorted(set(self.data.val_persons) & set(self.data.test_persons)):
            raise ValueError(f"data.val_persons, data.test_persons: {', '.join(both)} in both")
        return self

    @property
    def token_grid(self) -> tuple[int, int]:
        """(rows, columns) of tokens in one half: (h/2, w) of the whole."""
        side = self.data.size // self.codebook.downsampling
        return side // 2, side

    def replace(self, changes: Mapping[str, object] | None = None, /, **parts: object) -> "Config":
        """A copy with other values, by dotted name, by part, or both.

        `config.replace({"stage1.steps": 9})` and `config.replace(stage1={"steps": 9})` are the same. ConfigError names
        an unknown or ill-typed setting, or one out of its range. `preset` is none: the name alone would change nothing.
        """
        values = self.to_dict()
        for name, value in [*flat(changes or {}), *flat(parts)]:
            *above, last = name.split(".")
            place: Any = values
            for key in above:
                place = place.get(key) if isinstance(place, dict) else None
            if name == "preset":
                raise ConfigError(
                    f"preset: setting {value!r} would change the name alone; choose a preset by --preset, in "
                    "notebooks and runs by the parameter `preset`"
                )
            if not isinstance(place, dict) or last not in place:
                raise ConfigError(_unknown(name))
            place[last] = value
        return from_dict(values)

    def decisive(self, stage: str) -> dict[str, object]:
        """The settings, by dotted name, that a finished stage depends on.

        stage : "codebook", a phase of stage 2, "sync" or "wav2lip"
        Settings of data are not among them, but for the crop's size: the corpus's hash tells.
        """
        parts: dict[str, object] = {"seed": self.seed, "optimiser": self.optimiser, "data.size": self.data.size}
        if stage == "sync":
            parts["sync"] = self.sync
        elif stage == "wav2lip":
            parts |= {"sync": self.sync, "audio": self.audio, "lips": self.lips, "stage1": self.stage1}
            parts |= {"stage2.looks": self.stage2.looks, "wav2lip": self.wav2lip}
        else:
            parts |= {"codebook": self.codebook, "stage1": self.stage1}
        if stage in PHASES:
            plain = {field.name: getattr(self.stage2, field.name) for field in dataclasses.fields(Stage2)}
            done = PHASES[: PHASES.index(stage) + 1]
            own = {name: value for name, value in plain.items() if name not in PHASE_SETTINGS.values()}
            own |= {PHASE_SETTINGS[phase]: plain[PHASE_SETTINGS[phase]] for phase in done}
            parts |= {"audio": self.audio, "lips": self.lips, "stage2": own}
        return dict(flat(_plain(parts)))

    def to_dict(self) -> dict:
        """Plain values for JSON."""
        return _plain(self)


HEAD_WIDTH = 32  # channels of an attention head
PHASES = ("warping", "cached", "lipformer")  # of stage 2, by the folders that they leave
PHASE_SETTINGS = {"warping": "apart", "cached": "cached", "lipformer": "joint"}  # the part of Stage2 that is each one's


def flat(values: Mapping[str, object], above: str = "") -> Iterator[tuple[str, object]]:
    """Nested values as (dotted name, value)."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _unknown(name: str) -> str:
    if new := RENAMED.get(name):
        return f"{name}: no setting any more: {new}"
    return f"unknown setting {name}; lipformer_core/config.py lists them all"


def preset(name: str, changes: Mapping[str, object] | None = None, /, **parts: object) -> Config:
    """The settings of a preset with some replaced, as by `Config.replace`.

    Raises ConfigError for an unknown preset, an unknown setting, or a value of the wrong type or out of its range.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset: {name!r} is none of {', '.join(PRESETS)}")
    return from_dict({"preset": name, **PRESETS[name]}).replace(changes, **parts)


def from_dict(values: Mapping[str, object]) -> Config:
    """Rebuild a Config from `to_dict`'s JSON; what is missing has its default. Raises ConfigError as `preset`."""
    if unknown := [name for name, value in values.items() if name in RENAMED and not isinstance(value, Mapping)]:
        raise ConfigError(_unknown(unknown[0]))
    try:
        return _CONFIG.validate_python(dict(values))
    except ValidationError as error:
        raise ConfigError("; ".join(_words(problem) for problem in error.errors())) from error


def _words(problem: Any) -> str:
    name = ".".join(str(key) for key in problem["loc"])
    if problem["type"] == "unexpected_keyword_argument":
        return _unknown(name)
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    return f"{name}: {problem['input']!r}: {message}" if name else message


_CONFIG = TypeAdapter(Config)
