"""The house: imports run downwards, every file has its line in a README, Figure 2 can be read at one sitting."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lipformer_core"
FILES = sorted(p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob("*.py"))
# from the ground up; a file imports from its own floor or from below
FLOORS = (
    (
        "errors.py",
        "timing.py",
        "progress.py",
        "paths.py",
        "files.py",
        "presets.py",
        "renamed.py",
        "results.py",
        "__init__.py",
    ),
    ("config.py", "provenance.py", "weights.py"),
    ("data/media", "data/audio", "data/faces"),
    ("data/synthetic", "data/corpora"),
    ("data",),
    ("model",),
    ("device.py", "checkpoint.py", "figures"),
    ("speaker.py",),
    ("training",),
    ("dubbing", "evaluation"),
    ("personalise.py", "widgets.py", "bench"),
    ("cli",),
)
FIGURE_2 = ("lipformer", "transformer", "warping", "audio_encoder")


def floor(file: str) -> int:
    """On which floor a file, or the module of a package, lies; the longest name decides."""
    fitting = [(len(n), i) for i, names in enumerate(FLOORS) for n in names if file == n or file.startswith(f"{n}/")]
    assert fitting, f"{file} is on no floor"
    return max(fitting)[1]


def imported(file: str) -> set[str]:
    """The package's own files that a file imports, lazily or not."""
    found = set()
    here = ["lipformer_core", *Path(file).parts[:-1]]
    for node in ast.walk(ast.parse((PACKAGE / file).read_text(encoding="utf-8"))):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            modules = [module, *([*module, alias.name] for alias in node.names)]
        for module in modules:
            if module[0] == "lipformer_core" and len(module) > 1:
                path = "/".join(module[1:])
                if (PACKAGE / f"{path}.py").is_file():
                    found.add(f"{path}.py")
                elif (PACKAGE / path / "__init__.py").is_file():
                    found.add(f"{path}/__init__.py")
    return found


@pytest.mark.parametrize("file", FILES)
def test_imports_run_downwards(file):
    upwards = [other for other in imported(file) if floor(other) > floor(file)]
    assert upwards == []


def test_the_test_sees_imports_of_every_form():
    assert {"config.py", "model/transformer.py", "errors.py"} <= imported("model/lipformer.py") | imported("config.py")
    assert "model/build.py" in imported("checkpoint.py"), "a lazy import"


def test_every_file_has_its_line():
    texts = {folder: (PACKAGE / folder / "README.md").read_text(encoding="utf-8") for folder in (".", "data")}
    for file in FILES:
        text = texts["data" if file.startswith("data/") else "."]
        name = Path(file).name
        assert name == "__init__.py" or f"`{name}`" in text, file


def test_readmes_name_no_file_that_is_gone():
    names = {Path(file).name for file in FILES}
    for folder in (".", "data"):
        text = (PACKAGE / folder / "README.md").read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if line.startswith(("| `", "- `")) and ".py`" in line.split("|")[0]]
        named = {part for line in lines for part in line.split("`")[1::2] if part.endswith(".py") and "/" not in part}
        assert named <= names


def test_figure_2_can_be_read_at_one_sitting():
    lines = [len((PACKAGE / "model" / f"{name}.py").read_text(encoding="utf-8").splitlines()) for name in FIGURE_2]
    assert sum(lines) <= 450
