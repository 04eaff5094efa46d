"""An experiment's YAML: reading, checking, and resolving every notebook's parameters before anything is executed.

    title: Quick experiment
    description: What it is for.
    parameters: {preset: quick, seed: 0}          # to every notebook that defines them
    notebooks:
      - notebook: 01_data_preparation
        parameters: {overrides: {data.size: 64}}  # to this one; mappings are merged with the common ones
      - notebook: 02_codebook_training            # an ablation: this notebook once for each variant and seed, into
        seeds: [0, 1, 2]                          # run folders of their own, on the same data
        variants:
          plain: {}                               # the parameters that differ
          collapsing: {overrides: {stage1: {prevent_collapse: false}}}

An experiment may name `commands` before or in place of notebooks: `lipformer` commands, in them `{work}`, its folder.

`${NAME}` in any text is replaced by the environment variable NAME; an unset one is an error.
"""

import logging
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from lipformer_core.errors import LipFormerError

HERE = Path(__file__).resolve().parent
NOTEBOOKS = HERE.parent / "notebooks"

_ENTRIES = {"title": str, "description": str, "parameters": dict, "commands": list, "notebooks": list}
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class RunError(LipFormerError):
    """An experiment that cannot be run as it is written; the message names the file and the entry."""


@dataclass(frozen=True)
class Step:
    """One notebook of an experiment with its own parameters, and after `resolve` with all of them."""

    notebook: str  # name without .ipynb
    parameters: dict = field(default_factory=dict)
    variant: str = ""  # of an ablation
    seed: int = 0  # of the variant

    @property
    def name(self) -> str:
        """What its copy, its numbers and its record are called."""
        return f"{self.notebook}.{self.label}" if self.variant else self.notebook

    @property
    def label(self) -> str:
        """Variant and seed; its numbers carry it in front. Empty for a step that is no variant's."""
        return f"{self.variant}_{self.seed}" if self.variant else ""


@dataclass(frozen=True)
class Experiment:
    """A checked YAML."""

    name: str
    title: str
    description: str
    parameters: dict
    steps: tuple[Step, ...]
    commands: tuple[str, ...] = ()


def available(folder: Path = HERE) -> list[str]:
    """Names of the experiments that ship with the project."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def load_experiment(name: str, folder: Path = HERE) -> Experiment:
    """Read `folder/name.yaml`, or the YAML file that `name` is the path of.

    Raises RunError for a missing file, broken YAML, unknown or missing entries, wrong types, and environment
    variables that are not set.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.is_file():
        raise RunError(
            f"no experiment {name}: {path} does not exist; there are {', '.join(available(folder)) or 'none'}"
        )
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise RunError(f"{path.name}: not YAML: {' '.join(str(error).split())}") from error
    tree = _entries(path.name, tree, _ENTRIES)
    if not tree.get("notebooks") and not tree.get("commands"):
        raise RunError(f"{path.name}: notebooks: names no notebook")
    commands = _expand(tree.get("commands") or [], f"{path.name}: commands")
    if not all(isinstance(command, str) for command in commands):
        raise RunError(f"{path.name}: commands: each is one line of text")
    steps = []
    for index, item in enumerate(tree.get("notebooks") or []):
        where = f"{path.name}: notebooks[{index}]"
        steps += _steps(where, {"notebook": item} if isinstance(item, str) else item)
    names = [step.name for step in steps]
    for name in names:
        if names.count(name) > 1:
            raise RunError(f"{path.name}: notebook {name} is listed twice")
    common = _expand(tree.get("parameters") or {}, f"{path.name}: parameters")
    texts = tree.get("title") or path.stem, tree.get("description") or ""
    return Experiment(path.stem, *texts, common, tuple(steps), tuple(commands))


def _steps(where: str, item: object) -> list[Step]:
    """The steps of one entry of `notebooks`: one, or one for each variant and seed."""
    item = _entries(where, item, {"notebook": str, "parameters": dict, "variants": dict, "seeds": list})
    if "notebook" not in item:
        raise RunError(f"{where}: no entry `notebook`")
    parameters = _expand(item.get("parameters") or {}, f"{where}.parameters")
    if not item.get("variants"):
        if item.get("seeds"):
            raise RunError(f"{where}: seeds without variants; name the seed in parameters")
        return [Step(item["notebook"], parameters)]
    steps = []
    for variant, changes in item["variants"].items():
        if not re.fullmatch(r"[A-Za-z0-9_-]+", str(variant)) or not isinstance(changes or {}, dict):
            raise RunError(f"{where}: variant {variant}: a plain name with a mapping of parameters")
        changes = _merged(parameters, _expand(changes or {}, f"{where}.variants.{variant}"))
        for seed in item.get("seeds") or [0]:
            own = {"seed": seed, "run": f"run_{variant}_{seed}"}
            steps.append(Step(item["notebook"], changes | own, str(variant), seed))
    return steps


def resolve(experiment: Experiment, out: Path, notebooks: Path = NOTEBOOKS) -> list[Step]:
    """Every notebook with all the parameters it will be given, `work` and `results` included.

    Raises RunError for a notebook that does not exist, one without a cell tagged `parameters` that is given some,
    and a parameter that its notebook (a common one: any notebook) does not define; papermill alone would only warn.
    """
    defined: dict[str, set[str]] = {}
    for step in experiment.steps:
        path = notebooks / f"{step.notebook}.ipynb"
        if not path.is_file():
            there = ", ".join(sorted(p.stem for p in notebooks.glob("*.ipynb"))) or "none"
            raise RunError(f"{experiment.name}: no notebook {step.notebook}; there are {there}")
        defined[step.notebook] = _defined_parameters(path)
        for name in step.parameters:
            if name not in defined[step.notebook]:
                known = ", ".join(sorted(defined[step.notebook])) or "none: it has no cell tagged `parameters`"
                raise RunError(f"{experiment.name}: {step.notebook} has no parameter {name}; its parameters: {known}")
    for name in experiment.parameters:
        if not any(name in names for names in defined.values()):
            raise RunError(f"{experiment.name}: parameters: none of the notebooks has a parameter {name}")

    resolved = []
    for step in experiment.steps:
        values = {k: v for k, v in experiment.parameters.items() if k in defined[step.notebook]}
        values = _merged(values, step.parameters)
        injected = {"work": str(out / "work"), "results": str(out / "results" / f"{step.name}.json")}
        for name, value in injected.items():
            if name in defined[step.notebook]:
                values.setdefault(name, value)
        resolved.append(replace(step, parameters=values))
    return resolved


def _merged(common: dict, own: dict) -> dict:
    """Parameters with others over them; mappings are merged, at any depth."""
    both = {k: _merged(common[k], v) for k, v in own.items() if isinstance(v, dict) and isinstance(common.get(k), dict)}
    return {**common, **own, **both}


def _defined_parameters(path: Path) -> set[str]:
    import papermill

    logging.getLogger("papermill").setLevel(logging.ERROR)  # one "Input Notebook" line each otherwise
    return set(papermill.inspect_notebook(path))


def _entries(where: str, tree: object, allowed: dict[str, type]) -> dict:
    if not isinstance(tree, dict):
        raise RunError(f"{where}: is no mapping of {', '.join(allowed)}")
    for key, value in tree.items():
        if key not in allowed:
            raise RunError(f"{where}: unknown entry {key}; known: {', '.join(allowed)}")
        if value is not None and not isinstance(value, allowed[key]):
            raise RunError(f"{where}: {key} is a {type(value).__name__}, not a {allowed[key].__name__}")
    return tree


def _expand(value: object, where: str) -> object:
    if isinstance(value, dict):
        return {key: _expand(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def read(match: re.Match) -> str:
        if not os.environ.get(match[1]):
            raise RunError(f"{where}: the environment variable {match[1]} is not set; {value} needs it")
        return os.environ[match[1]]

    return _VARIABLE.sub(read, value)
