"""Which sources made data and weights: recorded where they are made, told in a run's report, made anew by force."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
from interruption import Interrupted, stop_at
from safetensors.torch import save_file
from test_papermill_runs import PARAMETERS, execute, save_experiment, save_notebook

from lipformer_core import checkpoint, provenance
from lipformer_core.data.prepared.clips import PreparedCorpus
from lipformer_core.data.prepared.prepare import prepare
from lipformer_core.training.codebook import CodebookStage, train_codebook
from lipformer_core.training.loop import finished
from papermill_runs import runner

TAKE_OR_MAKE = """
from pathlib import Path
from lipformer_core import provenance
from lipformer_core.files import write_json
if not Path(work, "data/manifest.json").is_file():
    write_json(Path(work, "data/manifest.json"), {"shards": {}, "made_by": [provenance.made_by("data")]})
    write_json(Path(work, "run/codebook/model.json"), {"config": {}, "made_by": [provenance.made_by("weights")]})
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package, which kernels import and the runner takes for its own."""
    copy = tmp_path / "copied" / "lipformer_core"
    shutil.copytree(provenance.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "pretrained"))
    monkeypatch.setenv("PYTHONPATH", str(copy.parent))
    monkeypatch.setattr(provenance, "sources", partial(provenance.sources, package=copy))
    monkeypatch.setattr(runner, "_sources", partial(runner._sources, package=copy))
    return copy


def edit(path: Path) -> None:
    path.write_text(path.read_text() + "\n# edited\n")


def test_the_report_says_what_other_sources_made_and_force_makes_it_anew(package, tmp_path):
    notebooks, path, out = tmp_path / "notebooks", tmp_path / "tiny.yaml", tmp_path / "out"
    notebooks.mkdir()
    save_notebook(notebooks / "01_first.ipynb", TAKE_OR_MAKE, parameters=PARAMETERS)
    save_experiment(path, notebooks=["01_first"])
    project = path, notebooks, out
    numbers, said = execute(project)
    assert numbers["run.made_by_others"] == "nothing" and "other sources" not in said
    assert numbers["made_by.data"].endswith(provenance.sources("data")[:12])

    edit(package / "results.py")  # shapes neither data nor weights
    numbers, said = execute(project)
    assert "running" in said and numbers["run.made_by_others"] == "nothing"

    first = numbers["made_by.data"]
    edit(package / "data" / "faces" / "alignment.py")
    numbers, said = execute(project)
    assert numbers["run.made_by_others"] == f"data ({first})" and f"data ({first})" in said
    assert f"data ({first})" in (out / "report.html").read_text()

    edit(package / "model" / "codebook.py")
    numbers, _ = execute(project)
    assert set(numbers["run.made_by_others"].split("; ")) == {
        f"data ({first})", f"run/codebook ({numbers['made_by.run/codebook']})"
    }  # fmt: skip

    numbers, said = execute(project, force=True)
    assert numbers["run.made_by_others"] == "nothing" and "other sources" not in said
    assert numbers["made_by.data"] != first and "other sources" not in (out / "report.html").read_text()


def test_force_removes_only_what_a_run_has_made(package, tmp_path):
    notebooks, path, out = tmp_path / "notebooks", tmp_path / "tiny.yaml", tmp_path / "out"
    notebooks.mkdir()
    save_notebook(notebooks / "01_first.ipynb", TAKE_OR_MAKE, parameters=PARAMETERS)
    save_experiment(path, notebooks=["01_first"])
    mine = out / "work" / "thesis.txt"
    mine.parent.mkdir(parents=True)
    mine.touch()
    with pytest.raises(runner.RunError, match="state.json"):
        execute((path, notebooks, out), force=True)
    assert mine.is_file()


def test_data_and_weights_carry_who_made_them(tiny_corpus, tiny_run):
    (maker,) = PreparedCorpus(tiny_corpus).manifest["made_by"]
    assert maker == provenance.made_by("data")
    for stage in ("codebook", "warping", "cached", "lipformer"):
        (maker,) = checkpoint.header_of(tiny_run, stage)["made_by"]
        assert maker["sources"] == provenance.sources("weights") and maker["mixed_precision"] == "no"
        assert json.loads((tiny_run / stage / "model.json").read_text())["made_by"] == [maker]
    found = {name: kind for name, kind, _ in provenance.products(tiny_run)}
    assert found == dict.fromkeys(("codebook", "warping", "cached", "lipformer"), "weights")


def test_what_two_sources_made_names_both(tiny_config, tiny_corpus, tmp_path, monkeypatch):
    real = provenance.sources
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(provenance, "sources", lambda kind: "of before")
        patch.setattr(CodebookStage, "losses", stop_at(9, CodebookStage))
        train_codebook(tiny_config, tiny_corpus, tmp_path, progress=False)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    train_codebook(tiny_config, tiny_corpus, tmp_path, progress=False)
    makers = checkpoint.header_of(tmp_path, "codebook")["made_by"]
    assert [maker["sources"] for maker in makers] == ["of before", real("weights")]
    assert provenance.by_others(makers, "weights")

    from lipformer_core.data.prepared import prepare as module

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(provenance, "sources", lambda kind: "of before")
        patch.setattr(module, "_finish", lambda *args: (_ for _ in ()).throw(Interrupted))
        prepare("synthetic", None, tmp_path / "data", tiny_config, workers=1, progress=False)
    corpus = prepare("synthetic", None, tmp_path / "data", tiny_config, workers=1, progress=False)
    assert [maker["sources"] for maker in corpus.manifest["made_by"]] == ["of before", real("data")]
    assert corpus.hash == PreparedCorpus(tiny_corpus).hash, "the bytes do not depend on it"


def test_checkpoints_of_before_it_was_recorded_load_and_count_as_unknown(tiny_config, tiny_run, tmp_path):
    header, tensors = checkpoint.load(tiny_run / "codebook/model.safetensors")
    del header["made_by"]
    (tmp_path / "codebook").mkdir()
    save_file(tensors, tmp_path / "codebook/model.safetensors", {"header": json.dumps(header)})
    (tmp_path / "codebook/model.json").write_text(json.dumps(header))
    assert finished(tmp_path / "codebook", tiny_config) and checkpoint.load_codebook(tmp_path)
    ((_, kind, makers),) = provenance.products(tmp_path)
    assert provenance.by_others(makers, kind) and "unknown" in provenance.words(makers)
    assert checkpoint.load_lipformer() is not None, "the pretrained weights"


def test_every_module_that_training_reads_counts_for_weights():
    """What model and training import from the package is hashed, or does nothing to numbers."""
    import ast

    harmless = {"errors.py", "files.py", "progress.py", "provenance.py", "weights.py", "__init__.py"}
    counted = provenance.SHAPING["weights"]
    for file in [f for part in ("model", "training") for f in (provenance.PACKAGE / part).rglob("*.py")]:
        to_the_package = len(file.relative_to(provenance.PACKAGE).parts)
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.ImportFrom) or node.level != to_the_package:
                continue
            modules = [node.module] if node.module else [alias.name for alias in node.names]
            for path in (f"{name.replace('.', '/')}.py" for name in modules):
                assert path in counted or path in harmless or path.split("/")[0] in counted, f"{file.name}: {path}"


def test_a_package_installed_within_another_repository_has_no_revision(tmp_path):
    import subprocess

    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "a"], check=True)
    (tmp_path / "provenance.py").touch()
    assert provenance.revision(tmp_path) == {"revision": None, "dirty": None}
    subprocess.run([*git, "add", "provenance.py"], check=True)
    found = provenance.revision(tmp_path)
    assert len(found["revision"]) == 40 and found["dirty"] is True
