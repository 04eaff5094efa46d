"""Curves that are drawn while a training runs, in a real kernel."""

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

TRAIN = """
%matplotlib inline
import time
from pathlib import Path
from lipformer_core.training.journal import Journal
from lipformer_core.widgets import live_curves
with live_curves("run", ["l1", "absent"], seconds=0.2):
    journal = Journal(Path("run/codebook"), 0)
    for step in range(3):
        journal.write(step, {"l1": 1 / (step + 1)})
        time.sleep(0.3)
    journal.close()
"""
AGAIN = 'with live_curves("run", ["l1"], seconds=0.1):\n    time.sleep(0.3)'


@pytest.mark.parametrize("silent", [{}, {"TQDM_DISABLE": "1"}, {"LIPFORMER_LIVE": "0"}], ids=str)
def test_curves_are_drawn_while_it_trains(tmp_path, monkeypatch, silent):
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    for name, value in silent.items():
        monkeypatch.setenv(name, value)
    notebook = new_notebook(cells=[new_code_cell(TRAIN), new_code_cell(AGAIN)])
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    trained, again = notebook.cells
    pictures = [o for o in trained.outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == (0 if silent else 1)  # one place, drawn anew
    assert [o for o in again.outputs if "image/png" in o.get("data", {})] == []  # nothing was trained there
    assert nbformat.validate(notebook) is None


def test_outside_a_notebook_nothing_happens(tmp_path):
    from lipformer_core.widgets import live_curves

    with live_curves(tmp_path, ["l1"]):
        pass
