"""Options that several commands share, each said once."""

import contextlib
import enum
from pathlib import Path
from typing import Annotated

import typer
import yaml

from ..config import Config, preset
from ..errors import ConfigError
from ..presets import PRESETS

Preset = Annotated[str, typer.Option(help=f"{', '.join(PRESETS)}.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a setting of the preset, by dotted name; repeat for more."
    ),
]
Run = Annotated[Path, typer.Option(help="Folder of the checkpoints.")]
ShippedRun = Annotated[Path | None, typer.Option(help="Folder of the checkpoints; none: the weights shipped.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1 … or mps; none: a GPU where one works, else the CPU.")
]
Progress = Annotated[bool, typer.Option("--progress/--quiet", help="Show progress bars.")]


def choice(name: str, *values: str) -> type[enum.StrEnum]:
    """One of some words, as typer offers it."""
    return enum.StrEnum(name, {value: value for value in values})


def parse_settings(settings: list[str] | None) -> dict[str, object]:
    """`["seed=3", "codebook.widths=[64, 128]"]` as a mapping; values are YAML, so 3 is a number and true a truth value.

    Raises ConfigError for a setting without `=` or with a value that is not YAML.
    """
    out: dict[str, object] = {}
    for setting in settings or []:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {setting}: write it as key=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {setting}: the value is not YAML") from error
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                value = float(value)  # YAML 1.1 reads 1e-3 as text
        out[key.strip()] = value
    return out


def configured(name: str, settings: list[str] | None, seed: int | None = None) -> Config:
    """The settings of a preset with some replaced. Raises ConfigError for what cannot be meant."""
    return preset(name, parse_settings(settings) | ({} if seed is None else {"seed": seed}))
