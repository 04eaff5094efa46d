"""The experiment runner, on tiny notebooks with real kernels, and the numbers that it gathers."""

import base64
import json
import math
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
import typer.main
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from lipformer_core.cli import app
from lipformer_core.cli.options import parse_settings
from lipformer_core.config import preset
from lipformer_core.results import ResultsError, write_results
from papermill_runs import runner
from papermill_runs.commands import words
from papermill_runs.experiment import RunError, available, load_experiment, resolve
from papermill_runs.gather import KEYS
from papermill_runs.report import sections, write_report

PARAMETERS = 'preset: str = "quick"\nseed: int = 0\nfactor = 2.0\noverrides: dict = {}\nwork = ""\nresults = ""'
MAKE = "from pathlib import Path\nPath(work, 'made').write_text(str(factor))"
FIGURE = "import matplotlib.pyplot as plt\nplt.figure(figsize=(1, 1)); plt.plot([0, 1]); plt.show()"
WRITE = (
    "from lipformer_core.results import write_results\n"
    "write_results(results, {'codebook.psnr': factor * 10, 'seen': preset})"
)
READ = (
    "from pathlib import Path\nfrom lipformer_core.results import write_results\n"
    "write_results(results, {'lipformer.leak': float(Path(work, 'made').read_text()) / 100, 'video.dubbed': 'made'})"
)


def save_notebook(path: Path, *cells: str, parameters: str | None = PARAMETERS) -> None:
    """A notebook of the given cells; text that begins with # and a blank becomes a heading."""
    made = [new_markdown_cell(c) if c.startswith("# ") or c.startswith("## ") else new_code_cell(c) for c in cells]
    if parameters is not None:
        made.insert(0, new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=made, metadata=kernel), path)


@pytest.fixture
def project(tmp_path):
    """Two notebooks, the second reading what the first made, and an experiment of both: (yaml path, notebooks, out)."""
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    save_notebook(notebooks / "01_first.ipynb", "# One", MAKE, "## A curve", FIGURE, WRITE)
    save_notebook(notebooks / "02_second.ipynb", "# Two", READ)
    path = tmp_path / "tiny.yaml"
    save_experiment(path)
    return path, notebooks, tmp_path / "out"


def save_experiment(path: Path, **changes: object) -> None:
    """The tiny experiment with some entries replaced."""
    tree = {
        "title": "Tiny",
        "description": "A test.",
        "parameters": {"seed": 3},
        "notebooks": [{"notebook": "01_first", "parameters": {"factor": 3.0}}, {"notebook": "02_second"}],
    }
    path.write_text(yaml.safe_dump({**tree, **changes}))


def execute(project, **options) -> tuple[dict, str]:
    """Run the tiny experiment; return its numbers and what was said."""
    path, notebooks, out = project
    said: list[str] = []
    runner.run(str(path), out=out, notebooks=notebooks, say=said.append, **options)
    return json.loads((out / "results.json").read_text()), "\n".join(said)


def test_runs_gathers_skips_and_repeats_what_changed(project):
    path, notebooks, out = project
    numbers, said = execute(project)
    assert numbers["codebook.psnr"] == 30.0
    assert numbers["lipformer.leak"] == 0.03
    assert numbers["run.seed"] == 3
    assert numbers["run.finished"] is True
    for key in KEYS:
        assert key in numbers
        assert numbers[key] is not None or numbers[f"{key}.why"]
    assert numbers["seconds.01_first"] > 0
    assert {"run.revision", "run.device", "run.torch", "run.python", "run.dirty"} <= set(numbers)
    assert said.splitlines()[-1] == f"report:  {out / 'report.html'}"

    page = (out / "report.html").read_text()
    assert "data:image/png;base64," in page
    assert "<figcaption>A curve</figcaption>" in page
    assert "data:video/mp4;base64," in page  # the short file of video.dubbed
    assert 'href="notebooks/01_first.ipynb"' in page
    assert "http" not in page, "the page loads nothing from outside"

    again, said = execute(project)
    assert said.count("finished before") == 2
    assert again == numbers

    first = {"notebook": "01_first", "parameters": {"factor": 4.0}}
    save_experiment(path, notebooks=[first, {"notebook": "02_second"}])
    changed, said = execute(project)
    assert said.count("running") == 2, "what builds on a notebook that ran anew runs anew"
    assert changed["lipformer.leak"] == 0.04

    save_notebook(notebooks / "02_second.ipynb", "# Two, edited", READ)
    _, said = execute(project)
    assert said.count("finished before") == 1


def test_a_failing_notebook_stops_the_run_and_keeps_its_copy(project):
    path, notebooks, out = project
    save_notebook(notebooks / "01_first.ipynb", "# One", MAKE, "raise RuntimeError('out of milk')", WRITE)
    with pytest.raises(runner.NotebookFailed, match="01_first failed in cell .* out of milk"):
        execute(project)
    copy = nbformat.read(out / "notebooks" / "01_first.ipynb", as_version=4)
    assert any("out of milk" in str(cell.get("outputs")) for cell in copy.cells)
    assert not (out / "notebooks" / "02_second.ipynb").exists()
    numbers = json.loads((out / "results.json").read_text())
    assert numbers["codebook.psnr"] is None
    assert "01_first" in numbers["codebook.psnr.why"]
    assert numbers["run.finished"] is False
    assert "out of milk" in (out / "report.html").read_text()

    save_notebook(notebooks / "01_first.ipynb", "# One", MAKE, WRITE)
    numbers, _ = execute(project)
    assert numbers["run.finished"] is True


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"tilte": "x"}, "tilte"),
        ({"notebooks": []}, "no notebook"),
        ({"notebooks": [{"notebook": "01_first", "params": {}}]}, "params"),
        ({"notebooks": [{"notebook": "09_none"}]}, "09_none"),
        ({"notebooks": [{"notebook": "01_first"}, {"notebook": "01_first"}]}, "twice"),
        ({"notebooks": [{"notebook": "01_first", "parameters": {"factr": 1}}]}, "factr"),
        ({"notebooks": [{"notebook": "01_first", "variants": {"a b": {}}}]}, "a b"),
        ({"notebooks": [{"notebook": "01_first", "seeds": [1, 2]}]}, "seeds without variants"),
        ({"notebooks": [{"notebook": "01_first", "variants": {"plain": {}}}]}, "no parameter run"),
        ({"notebooks": [{"notebook": "03_plain", "parameters": {"seed": 1}}]}, "tagged"),
        ({"parameters": {"sede": 1}}, "sede"),
        ({"parameters": [1]}, "parameters is a list"),
        ({"parameters": {"preset": "${LIPFORMER_NO_SUCH_VARIABLE}"}}, "LIPFORMER_NO_SUCH_VARIABLE is not set"),
    ],
)
def test_mistakes_in_the_yaml_are_found_before_anything_runs(project, changes, named):
    path, notebooks, out = project
    save_notebook(notebooks / "03_plain.ipynb", "1 + 1", parameters=None)
    save_experiment(path, **changes)
    with pytest.raises(RunError, match=named):
        execute(project)
    assert not out.exists()


def test_parameters_merge_and_expand(project, monkeypatch):
    path, notebooks, out = project
    monkeypatch.setenv("LIPFORMER_TEST_PRESET", "tiny")
    save_experiment(
        path,
        parameters={"preset": "${LIPFORMER_TEST_PRESET}/x", "overrides": {"a": 1, "b": {"c": 1, "d": 1}}},
        notebooks=["02_second", {"notebook": "01_first", "parameters": {"overrides": {"b": {"d": 2}}}}],
    )
    second, first = resolve(load_experiment(str(path)), out, notebooks)
    assert first.parameters["overrides"] == {"a": 1, "b": {"c": 1, "d": 2}}
    assert second.parameters["overrides"] == {"a": 1, "b": {"c": 1, "d": 1}}
    assert first.parameters["preset"] == "tiny/x"
    assert first.parameters["work"] == second.parameters["work"] == str(out / "work")
    assert first.parameters["results"] == str(out / "results" / "01_first.json")


VARIED = """
import base64
import json
from pathlib import Path
value = overrides["base"] + overrides.get("gain", 0) + seed
Path(results).write_text(json.dumps({"codebook.psnr": value, "own": run}))
"""


def test_an_ablation_runs_a_notebook_once_for_each_variant_and_seed(tmp_path):
    notebooks, path, out = tmp_path / "notebooks", tmp_path / "varied.yaml", tmp_path / "out"
    notebooks.mkdir()
    save_notebook(notebooks / "01_varied.ipynb", VARIED, parameters="overrides = {}\nseed = 0\nrun = ''\nresults = ''")
    entry = {"notebook": "01_varied", "seeds": [0, 2], "parameters": {"overrides": {"base": 10}}}
    save_experiment(
        path, parameters={}, notebooks=[{**entry, "variants": {"plain": None, "more": {"overrides": {"gain": 5}}}}]
    )
    numbers, said = execute((path, notebooks, out))
    assert said.count("running") == 4
    assert [numbers[f"{label}.codebook.psnr"] for label in ("plain_0", "plain_2", "more_0", "more_2")] == [
        10,
        12,
        15,
        17,
    ]
    assert (numbers["plain.codebook.psnr"], numbers["more.codebook.psnr"]) == (11, 16)
    assert numbers["more.codebook.psnr.deviation"] == pytest.approx(2**0.5)
    assert numbers["more_2.own"] == "run_more_2"
    assert numbers["codebook.psnr"] is None and numbers["codebook.psnr.why"]
    assert "16.00 ± 1.41" in (out / "report.html").read_text()
    assert execute((path, notebooks, out))[1].count("finished before") == 4


def test_the_report_holds_the_evaluations_table_figures_and_films(tmp_path):
    save_experiment(tmp_path / "judged.yaml", parameters={}, notebooks=["05_evaluation"])
    experiment = load_experiment(str(tmp_path / "judged.yaml"))
    folder = tmp_path / "work/evaluation"
    folder.mkdir(parents=True)
    for name in ("strip_0.png", "exchange.png", "film_own_sound.mp4"):
        (folder / name).write_bytes(name.encode())
    numbers: dict = dict.fromkeys(KEYS) | {f"{key}.why": "not measured" for key in KEYS}
    numbers |= {
        "n_clips": 7,
        "n_persons": 3,
        "n_frames": 525,
        "data_hash": "0123456789abcdef",
        "ground_truth.seam": 1.0,
    }
    numbers |= {"lipformer.mouth_psnr": 23.5, "lipformer.mouth_psnr.low": 22.25, "lipformer.mouth_psnr.high": 24.75}
    numbers |= {"lipformer.mouth_psnr_yaw_10_20": 21.5, "run.seed": 4, "run.revision": "c0ffee", "run.seconds": 1.0}
    page = write_report(experiment, list(experiment.steps), {}, numbers, tmp_path).read_text()
    assert page.count("7 clips of 3 people, 525 frames, data 0123456789ab<") == 2 and "seed 4" in page
    assert "<td>23.5 (22.2 to 24.8)</td>" in page and "PSNR mouth, yaw 10 to 20°" in page
    for name in ("strip_0.png", "exchange.png", "film_own_sound.mp4"):
        assert base64.b64encode(name.encode()).decode() in page
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page), "self-contained"


def test_commands_run_in_their_order_and_stop_at_the_first_that_fails(tmp_path, monkeypatch):
    said, made = [], tmp_path / "out" / "work" / "data"
    sizes = "--set data.synthetic.persons=[1,1,1] --set data.synthetic.frames=[2,2]"
    prepare = f"lipformer prepare --corpus synthetic --quiet {sizes} --out {{work}}/data"
    (tmp_path / "row.yaml").write_text(yaml.safe_dump({"commands": [prepare, "lipformer evaluate --out {work}"]}))
    with pytest.raises(RunError, match=r"\[2/2\] lipformer evaluate --out: exit code 2"):
        runner.run(str(tmp_path / "row.yaml"), out=tmp_path / "out", say=said.append)
    assert (made / "manifest.json").is_file() and "[1/2] lipformer prepare --corpus: done" in said[1]
    (tmp_path / "other.yaml").write_text(yaml.safe_dump({"commands": ["rm -rf {work}"]}))
    with pytest.raises(RunError, match="alone"):
        runner.run(str(tmp_path / "other.yaml"), out=tmp_path / "out", say=said.append)
    assert made.is_dir()


def test_shipped_commands_are_commands_of_the_package(monkeypatch, tmp_path):
    for name in ("LIPFORMER_CLIPS", "LIPFORMER_FFHQ", "LIPFORMER_LRS2"):
        monkeypatch.setenv(name, "material")
    command = typer.main.get_command(app)
    rows = [row for name in available() for row in load_experiment(name).commands]
    assert rows
    for row in rows:
        node, arguments = command, words(row, tmp_path)
        while hasattr(node, "commands"):
            node = node.commands[arguments.pop(0)]
        context = node.make_context(node.name, arguments)
        settings = parse_settings(context.params.get("settings"))
        preset(context.params.get("preset") or "quick", settings)


def test_shipped_experiments_fit_the_notebooks(monkeypatch, tmp_path):
    for variable in ("LIPFORMER_CLIPS", "LIPFORMER_LRS2", "LIPFORMER_FFHQ"):
        monkeypatch.setenv(variable, str(tmp_path))
    assert {"quick", "grid", "paper"} <= set(available())
    for name in available():
        experiment = load_experiment(name)
        if all((runner.NOTEBOOKS / f"{step.notebook}.ipynb").is_file() for step in experiment.steps):
            for step in resolve(experiment, tmp_path):
                assert {"preset", "corpus", "seed", "work", "results"} <= set(step.parameters)
                preset(step.parameters["preset"], step.parameters.get("overrides"))  # a ConfigError for a wrong one


def test_unknown_experiment_names_those_there_are():
    with pytest.raises(RunError, match="quick"):
        load_experiment("no_such_experiment")


def test_sections_collect_figures_under_the_nearest_heading():
    picture = {"output_type": "display_data", "data": {"image/png": "QUJD\n"}, "metadata": {}}
    cells = [
        new_markdown_cell("# Title of `it`\n\ntext\n\n## [Part](x.html)\n```\n# no heading\n```"),
        new_code_cell("1", outputs=[nbformat.from_dict(picture)]),
        new_markdown_cell("### Last"),
    ]
    found = sections(new_notebook(cells=cells))
    assert [(s.title, s.level) for s in found] == [("Title of it", 1), ("Part", 2), ("Last", 3)]
    assert [len(s.figures) for s in found] == [0, 1, 0]
    assert found[1].figures == ["data:image/png;base64,QUJD"]


def test_write_results_rounds_and_explains(tmp_path):
    path = tmp_path / "deep" / "results.json"
    values = {"a": 1 / 3, "b": np.float32(0.5), "c": np.int64(3), "d": math.nan, "f": True}
    write_results(path, {**values, "e": None, "e.why": "no file"})
    read = json.loads(path.read_text())
    assert read["a"] == 0.333333
    assert (read["b"], read["c"], read["f"]) == (0.5, 3, True)
    assert read["d"] is None and "nan" in read["d.why"]
    assert [p.name for p in path.parent.iterdir()] == ["results.json"], "no temporary file stays"
    assert write_results("", {"a": 1}) == {"a": 1}, "without a path nothing is written"


@pytest.mark.parametrize("values", [{"a": None}, {"a": [1]}, {"a": {"b": 1}}, {1: 2}])
def test_write_results_refuses_what_is_not_flat_or_not_explained(tmp_path, values):
    path = tmp_path / "results.json"
    path.write_text("{}")
    with pytest.raises(ResultsError):
        write_results(path, values)
    assert path.read_text() == "{}"
