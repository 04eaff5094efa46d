"""The committed notebooks: executed, thin, free of this machine, and each with its badge, parameters and results."""

import ast
import json
import re
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
NAMES = (
    "01_data_preparation",
    "02_codebook_training",
    "03_warping_ablation",
    "04_transformer_training",
    "05_evaluation",
    "06_talking_face",
    "07_speed",
    "A1_sync_expert",
)
COMMON = {"preset": "quick", "corpus": "synthetic", "source": "", "seed": 0, "overrides": {}, "work": "", "results": ""}
LARGEST = 2_000_000  # bytes
LONGEST_CELL, USUAL_CELL = 20, 8  # lines; imports are the long ones
FEWEST_FIGURES = {"01": 8, "02": 6, "03": 4, "04": 5, "05": 6, "06": 4, "07": 2, "A1": 5}
# Figure 2, an equation and its code, shapes, exercises
TEACHES = ("figure2(", "$$", "print(source_of(", ".shape", "## Try it\n\n1. ", "\n2. ")
MACHINE = re.compile(r"/(home|root|Users|tmp|work|var/folders)/|/content/|site-packages|[A-Z]:\\\\")


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    """(path, notebook) of one committed notebook."""
    return request.param, nbformat.read(request.param, as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def python(cell: nbformat.NotebookNode) -> str:
    """A cell's source without IPython's magics; `if` blocks of magics keep a `pass`."""
    return re.sub(r"^(\s*)[%!].*$", r"\1pass", cell.source, flags=re.MULTILINE)


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def test_all_are_there():
    assert set(NAMES) <= {path.stem for path in NOTEBOOKS}


def test_is_executed_from_top_to_bottom(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook[1])]
    assert counts == list(range(1, len(counts) + 1)), "stripped, or executed out of order: nbval would compare nothing"


def test_has_the_outputs_that_nbval_compares(notebook):
    for cell in code_cells(notebook[1]):
        top = ast.parse(python(cell)).body  # a print inside a condition may rightly stay silent
        calls = [n.value for n in top if isinstance(n, ast.Expr) and isinstance(n.value, ast.Call)]
        if any(isinstance(c.func, ast.Name) and c.func.id == "print" for c in calls):
            assert cell.outputs, f"prints nothing:\n{cell.source}"


def test_has_no_error_and_no_warning(notebook):
    assert [o for o in outputs(notebook[1]) if o.output_type == "error"] == []
    assert [o.text for o in outputs(notebook[1]) if o.get("name") == "stderr"] == []
    widgets = [o for o in outputs(notebook[1]) if "application/vnd.jupyter.widget-view+json" in o.get("data", {})]
    assert not widgets, "a progress bar was committed: execute with TQDM_DISABLE=1"


def test_shows_figures(notebook):
    path, content = notebook
    pictures = [o for o in outputs(content) if "image/png" in o.get("data", {})]
    assert len(pictures) >= FEWEST_FIGURES.get(path.stem[:2], 1)


def test_begins_with_its_badge_and_a_title(notebook):
    path, content = notebook
    first, second = content.cells[:2]
    assert first.source.startswith("[![Open In Colab]")
    assert first.source.endswith(f"/blob/main/notebooks/{path.name})")
    assert second.source.startswith("# ")
    assert "**Time**" in second.source


def test_parameters_are_independent_literals(notebook):
    cells = [cell for cell in code_cells(notebook[1]) if "parameters" in cell.metadata.get("tags", [])]
    assert len(cells) == 1
    values = {}
    for node in ast.parse(cells[0].source).body:
        assert isinstance(node, ast.Assign), "a parameter is one plain assignment"
        values[node.targets[0].id] = ast.literal_eval(node.value)
    assert {name: values.get(name) for name in COMMON} == COMMON


def test_last_cell_writes_the_results(notebook):
    assert "write_results(results," in code_cells(notebook[1])[-1].source


def test_is_thin(notebook):
    lengths = []
    for cell in code_cells(notebook[1]):
        tree = ast.parse(python(cell))
        defined = [n for n in ast.walk(tree) if isinstance(n, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))]
        assert not defined, f"belongs into the package:\n{cell.source}"
        if not any(isinstance(n, (ast.Import, ast.ImportFrom)) for n in tree.body):
            lengths.append(len(cell.source.splitlines()))
        assert len(cell.source.splitlines()) <= LONGEST_CELL
    assert sorted(lengths)[len(lengths) // 2] <= USUAL_CELL


def test_teaches(notebook):
    text = "\n".join(cell.source for cell in notebook[1].cells)
    assert [part for part in TEACHES if part not in text] == []


def test_imports_only_the_package_and_numpy(notebook):
    allowed = {"lipformer_core", "numpy", "torch", "sys", "itertools", "IPython"}
    for cell in code_cells(notebook[1]):
        for node in ast.walk(ast.parse(python(cell))):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                assert {name.split(".")[0] for name in names} <= allowed


def test_says_nothing_of_a_machine_and_leaves_no_marker(notebook):
    content = json.loads(notebook[0].read_text(encoding="utf-8"))
    for cell in content["cells"]:
        texts = ["".join(cell["source"])]
        texts += ["".join(o.get("text", [])) for o in cell.get("outputs", [])]
        texts += ["".join(o["data"].get("text/plain", [])) for o in cell.get("outputs", []) if "data" in o]
        for text in texts:
            assert not MACHINE.search(text), text
            assert "«" not in text, text
    assert set(content["metadata"]) <= {"kernelspec", "language_info"}


def test_is_small(notebook):
    assert notebook[0].stat().st_size < LARGEST
