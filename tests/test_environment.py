"""The three descriptions of the environment agree, imports are as light as promised, nothing private is tracked."""

import ast
import contextlib
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DIRECT = [Requirement(text) for text in [*PROJECT["dependencies"], *sum(EXTRAS.values(), [])]]


def pins() -> dict[str, str]:
    """constraints.txt as {canonical name: version}."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [line.split("==") for line in lines if line.strip() and not line.startswith("#")]
    assert all(len(parts) == 2 for parts in found), "constraints.txt holds exact versions only"
    return {canonicalize_name(name): number for name, number in found}


def run_python(code: str) -> str:
    """Run code in a fresh interpreter at the repository's root; return what it prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda r: r.name)
def test_every_dependency_is_pinned_within_its_range(requirement):
    pinned = pins().get(canonicalize_name(requirement.name))
    assert pinned, f"{requirement.name} is not in constraints.txt"
    assert requirement.specifier.contains(pinned, prereleases=True)
    assert not any(s.operator in ("==", "===") for s in requirement.specifier), "pyproject.toml holds ranges"
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        return
    assert requirement.specifier.contains(installed, prereleases=True), f"{requirement.name} {installed} is installed"


@pytest.mark.parametrize(
    ("name", "older"),
    [
        ("torch", "2.11.0"),
        ("torchvision", "0.26.0"),
        ("numpy", "2.0.2"),
        ("ipykernel", "6.17.1"),
        ("ipywidgets", "7.7.1"),
    ],
)
def test_ranges_admit_what_colab_and_older_gpu_machines_hold(name, older):
    requirement = next(r for r in DIRECT if r.name == name)
    assert requirement.specifier.contains(older)
    assert SpecifierSet(PROJECT["requires-python"]).contains("3.12")


def test_conda_environment_agrees():
    tree = yaml.safe_load((ROOT / "environment.yml").read_text())
    python = next(d for d in tree["dependencies"] if isinstance(d, str) and d.startswith("python"))
    assert SpecifierSet(python.removeprefix("python")) == SpecifierSet(PROJECT["requires-python"])
    lines = next(d["pip"] for d in tree["dependencies"] if isinstance(d, dict))
    assert lines == ["-c constraints.txt", f"-e .[{','.join(sorted(EXTRAS))}]"]


def test_make_installs_what_conda_installs():
    makefile = (ROOT / "Makefile").read_text()
    assert f"EXTRAS ?= {','.join(sorted(EXTRAS))}\n" in makefile and "-c constraints.txt -e '.[$(EXTRAS)]'" in makefile


def test_both_owners_of_cv2_have_one_version():
    assert pins()["opencv-python"] == pins()["opencv-contrib-python"]


def test_cv2_mediapipe_and_face_alignment_import_together():
    code = "import cv2, mediapipe, face_alignment, numpy; print(cv2.flip(numpy.zeros((2, 2)), 1).shape)"
    assert run_python(code).strip() == "(2, 2)"


# A module is foreign if a distribution outside the allowed ones' own requirements brought it.
ONLY = """
import importlib.machinery, importlib.metadata, json, pkgutil, re, sys
from importlib.metadata import PackageNotFoundError
canonical = lambda name: re.sub(r"[-_.]+", "-", name).lower()
allowed, todo = set(), {roots!r}
while todo:
    name = canonical(todo.pop())
    if name in allowed:
        continue
    allowed.add(name)
    try:
        lines = importlib.metadata.requires(name) or []
    except PackageNotFoundError:
        continue
    todo += [re.match(r"[\\w.-]+", line)[0] for line in lines if "extra ==" not in line]
owners = importlib.metadata.packages_distributions()
foreign = {{m for m, ds in owners.items() if m != "lipformer_core" and not any(canonical(d) in allowed for d in ds)}}

class Only(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in foreign else super().find_spec(name, path, target)

sys.meta_path = [Only if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
assert {{"cv2", "scipy", "av", "matplotlib", "tqdm"}} <= foreign | {also!r}
package = importlib.import_module("lipformer_core.{package}")
names = ["lipformer_core.{package}." + m.name for m in pkgutil.walk_packages(package.__path__)]
for name in names:
    importlib.import_module(name)
print(json.dumps(names))
"""
DUB_ALONE = """
import sys
absent = {absent!r}

class Absent:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent)
from lipformer_core.cli import main
main()
"""


@pytest.mark.parametrize(
    ("package", "roots", "also"),
    [
        ("model", ["torch", "numpy", "safetensors", "pydantic"], set()),
        # accelerate brings tqdm itself
        ("training", ["torch", "numpy", "safetensors", "pydantic", "accelerate"], {"tqdm"}),
    ],
)
def test_model_and_training_import_with_few_libraries(package, roots, also):
    if not list((ROOT / "lipformer_core" / package).glob("[!_]*.py")):
        pytest.skip(f"lipformer_core/{package} has no modules")
    assert json.loads(run_python(ONLY.format(package=package, roots=roots, also=also)))


def run_alone(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess:
    """The command line where of all dependencies only the first list of pyproject.toml is installed."""
    core, todo = set(), [Requirement(text).name for text in PROJECT["dependencies"]]
    while todo:  # and what these bring
        name = canonicalize_name(todo.pop())
        if name not in core:
            core.add(name)
            with contextlib.suppress(PackageNotFoundError):
                todo += [r.name for r in map(Requirement, requires(name) or []) if "extra" not in str(r.marker)]
    owned = {canonicalize_name(r.name) for r in DIRECT} - core
    absent = [m for m, ds in packages_distributions().items() if {canonicalize_name(d) for d in ds} <= owned]
    assert {"accelerate", "lpips", "papermill", "tensorboard", "torchvision"} <= set(absent)
    (tmp_path / "alone.py").write_text(DUB_ALONE.format(absent=absent))
    return subprocess.run([sys.executable, tmp_path / "alone.py", *arguments], capture_output=True, text=True, cwd=ROOT)


def test_who_only_dubs_needs_no_extra(tmp_path):
    from lipformer_core.data.prepared.example import write_clip
    from lipformer_core.data.synthetic import synthesise_clip

    files = write_clip(synthesise_clip(0, 0, 0, n_frames=12, size=256), tmp_path)
    out, sources = tmp_path / "out.mp4", (files.video, files.audio, "--landmarks", files.landmarks)
    done = run_alone(tmp_path, "dub", *map(str, sources), "-o", str(out), "--quiet", "--device", "cpu")
    assert done.returncode == 0 and out.is_file(), done.stderr[-2000:]


def test_a_command_that_needs_an_extra_says_which(tmp_path):
    done = run_alone(tmp_path, "train", "codebook", "--data", str(tmp_path), "--run", str(tmp_path / "run"))
    assert done.returncode == 2 and "lipformer-core[train]" in done.stderr, done.stderr[-2000:]


def test_the_package_itself_imports_at_once():
    code = "import sys, lipformer_core; print(any(m in sys.modules for m in ('torch', 'numpy', 'cv2')))"
    assert run_python(code).strip() == "False"


HEAVY = ("torch", "numpy", "cv2", "av", "scipy", "mediapipe", "onnxruntime", "librosa", "numba", "matplotlib", "sympy")


def test_the_command_line_answers_before_anything_heavy_is_imported():
    code = f"""
import sys
from typer.testing import CliRunner
from lipformer_core.cli import app
for arguments in (["--help"], ["dub", "--help"]):
    assert CliRunner().invoke(app, arguments).exit_code == 0
print([m for m in {HEAVY} if m in sys.modules])
"""
    assert run_python(code).strip() == "[]"


def test_a_dub_imports_nothing_that_it_does_not_use(tmp_path):
    """librosa, numba and pyplot would be half of the time before its first frame; pyplot is left as it was."""
    code = f"""
import sys
from pathlib import Path
from test_dubbing import Material
from lipformer_core.data.faces import open_tracker
from lipformer_core.errors import WeightsMissing
try:
    open_tracker()
except WeightsMissing:
    pass
Material(Path({str(tmp_path)!r})).dub()
print([m for m in {("librosa", "numba", "matplotlib", "onnxruntime", "sympy")} if m in sys.modules])
import matplotlib.pyplot
assert matplotlib.pyplot.figure
"""
    assert run_python(f"import sys; sys.path.append({str(ROOT / 'tests')!r})\n{code}").strip() == "[]"


def test_every_import_is_declared():
    """Also the lazy ones: what one machine happens to have, a fresh environment lacks."""
    owners = {"dlib": ["dlib-bin"]} | packages_distributions()  # whose list of modules has its extension alone
    declared = {canonicalize_name(r.name) for r in DIRECT} | {"lipformer-core", "setuptools"}
    missing = set()
    sources = [*ROOT.glob("lipformer_core/**/*.py"), *ROOT.glob("papermill_runs/*.py"), *ROOT.glob("tests/*.py")]
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for module in {name.partition(".")[0] for name in names} - sys.stdlib_module_names:
                found = {canonicalize_name(d) for d in owners.get(module, [module])}
                ours = (ROOT / module).is_dir() or (ROOT / "tests" / f"{module}.py").is_file()
                if not ours and not found & declared:
                    missing.add(f"{module} in {path.relative_to(ROOT)}")
    assert not missing


def tracked_files() -> list[Path]:
    """Files that git tracks or would track."""
    done = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


def registry_hosts() -> set[str]:
    """Package registries: the well-known ones, put together here so as not to be written, and those of this pip."""
    known = {"py" + "pi.org", "python" + "hosted.org", "download.py" + "torch.org/whl", "ana" + "conda.org"}
    done = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    configured = {urlsplit(url).hostname for url in re.findall(r"https?://[^\s'\"]+", done.stdout)}
    return known | {host for host in configured if host}


def test_nothing_tracked_names_a_registry_or_a_machines_folders():
    hosts = [host.encode() for host in registry_hosts()]
    option = re.compile(rb"--(extra-)?" + rb"index-url")
    home = re.compile(rb"(?<![\w.:/-])/(root|home/\w+|Users/\w+|work/\w+)/")
    wrong = []
    for path in tracked_files():
        if path.suffix in (".mp4", ".png", ".jpg", ".wav", ".safetensors"):
            continue
        content = path.read_bytes()
        wrong += [f"{path.name}: {host.decode()}" for host in hosts if host in content]
        wrong += [f"{path.name}: {match[0].decode()}" for match in (*option.finditer(content), *home.finditer(content))]
    assert not wrong
