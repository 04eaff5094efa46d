"""Colab as far as a machine without it allows: install cells and imports, from a wheel of this checkout.

And the repository's address, which pyproject.toml alone states.
"""

import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from papermill_runs.address import stated, write

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
COLABS_PYTHON = "3.12"
# What Colab is to the cells: its module, an installer, and a folder without this repository. Once is enough to install.
STAND_IN = """
import importlib, subprocess, sys
from pathlib import Path
sys.path[:0] = [{site!r}, {module!r}]
import google.colab

def pip(line):
    print("asked:", line)
    if not Path({site!r}).exists():
        options = ["--quiet", "--no-deps", "--no-index", "--target", {site!r}]
        subprocess.run([sys.executable, "-m", "pip", "install", *options, {wheel!r}], check=True)
        importlib.invalidate_caches()

get_ipython().register_magic_function(pip, "line", "pip")
"""


@pytest.fixture
def fork(tmp_path):
    """A copy of the files that name the repository, with another address stated."""
    (tmp_path / "notebooks").mkdir()
    for path in (ROOT / "README.md", ROOT / "pyproject.toml", *NOTEBOOKS):
        shutil.copy(path, tmp_path / path.relative_to(ROOT))
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text(text.replace(stated(), "some-body/lip.former"), encoding="utf-8")
    return tmp_path


def test_every_address_is_the_one_of_pyproject(fork):
    shutil.copy(ROOT / "pyproject.toml", fork)
    places = write(fork)
    assert places == {"README.md": 1, **{path.name: 2 for path in NOTEBOOKS}}  # a badge and an install cell each
    for name in ("README.md", *(f"notebooks/{path.name}" for path in NOTEBOOKS)):
        assert (fork / name).read_bytes() == (ROOT / name).read_bytes(), f"{name}: run make address"


def test_a_fork_changes_one_line(fork):
    write(fork)
    for path in (fork / "README.md", *(fork / "notebooks").glob("*.ipynb")):
        text = path.read_text(encoding="utf-8")
        assert stated() not in text and "some-body/lip.former" in text


def test_an_address_that_colab_cannot_open_is_refused(fork):
    text = (fork / "pyproject.toml").read_text(encoding="utf-8")
    (fork / "pyproject.toml").write_text(text.replace("https://github.com/", "https://example.org/"), encoding="utf-8")
    with pytest.raises(ValueError, match="example.org"):
        write(fork)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of this checkout, built by what is installed here; skipped where that cannot build one."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("lipformer_core", "papermill_runs"):
        passed = shutil.ignore_patterns("__pycache__", "work", "notebooks", "results")
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=passed)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "-w", str(folder)]
    command = [sys.executable, "-m", "pip", "wheel", *options, str(folder / "source")]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and re.search(r"No module named|requires|setuptools", done.stderr):
        pytest.skip(f"no wheel can be built here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr[-2000:]
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_first_cells_run_on_colab(wheel, tmp_path):
    module = tmp_path / "module"
    (module / "google" / "colab").mkdir(parents=True)
    (module / "google" / "colab" / "__init__.py").touch()
    stand_in = STAND_IN.format(site=str(tmp_path / "site"), module=str(module), wheel=str(wheel))
    cells = [new_code_cell(stand_in)]
    for path in NOTEBOOKS:
        code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        cells += [new_code_cell(source) for source in code[:4]]  # installation, versions, parameters, imports
    cells.append(new_code_cell("print(lipformer_core.__file__)"))
    colab = new_notebook(cells=cells)
    NotebookClient(colab, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()

    printed = ["".join(o.get("text", "") for o in cell.outputs) for cell in colab.cells]
    assert printed[-1].startswith(str(tmp_path / "site")), "taken from the checkout, not from the wheel"
    asked = [line.removeprefix("asked: ") for line in "".join(printed).splitlines() if line.startswith("asked: ")]
    assert len(asked) == len(NOTEBOOKS)
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(name).decode())
    for line in asked:
        wanted = Requirement(shlex.split(line)[-1])
        assert wanted.url == f"git+https://github.com/{stated()}"
        assert wanted.name == metadata["Name"] and wanted.extras <= set(metadata.get_all("Provides-Extra"))
    assert SpecifierSet(metadata["Requires-Python"]).contains(COLABS_PYTHON)
