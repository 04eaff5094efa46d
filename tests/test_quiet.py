"""What other libraries have to say does not reach a user, and an error of ours is one sentence."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook
from traitlets.config.loader import KeyValueConfigLoader

ROOT = Path(__file__).resolve().parents[1]
# how the kernel, absl, TensorFlow Lite and Python begin what they say
FOREIGN = re.compile(r"over TCP|[WIEF]\d{4} \d\d:|absl|TensorFlow|XNNPACK|WARNING|\w*Warning:")
RAISES = "from lipformer_core.errors import NoFaceFound\n\ndef f():\n    raise NoFaceFound('no face: {}')\n\nf()"


def test_a_run_says_nothing_but_its_own(tmp_path):
    from test_papermill_runs import save_notebook

    code = "from lipformer_core.results import write_results\nwrite_results(results, {'seen': preset})"
    save_notebook(tmp_path / "01_only.ipynb", "# One", code)
    experiment = {"title": "One", "description": "A test.", "notebooks": [{"notebook": "01_only"}]}
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(experiment))
    run = "from papermill_runs.runner import run; run('one.yaml', out=Path('out'), notebooks=Path('.'))"
    run = f"from pathlib import Path; {run}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"}
    done = subprocess.run([sys.executable, "-c", run], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not FOREIGN.search(done.stderr + done.stdout), done.stderr


@pytest.mark.parametrize("target", ["lab", "notebooks"])
def test_make_starts_kernels_that_do_not_warn(target, capfd):
    """The kernel itself is started here, as JupyterLab and nbconvert start it from the Makefile's arguments."""
    if shutil.which("make") is None:
        pytest.skip("no make here")
    shown = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    settings = re.findall(r"--KernelManager\.\S+", shown)
    assert settings
    client = NotebookClient(new_notebook(cells=[new_code_cell("1")]), kernel_name="python3")
    client.update_config(KeyValueConfigLoader(settings).load_config())
    client.execute()
    assert not FOREIGN.search(capfd.readouterr().err)


def test_an_error_of_ours_is_one_sentence_in_a_notebook():
    notebook = new_notebook(cells=[new_code_cell(RAISES), new_code_cell("1 / 0")])
    client = NotebookClient(notebook, kernel_name="python3", allow_errors=True)
    client.execute()
    ours, bug = (cell.outputs[0] for cell in notebook.cells)
    assert ours.traceback == ["NoFaceFound: no face: {}"] and ours.ename == "NoFaceFound"
    assert len("\n".join(bug.traceback).splitlines()) > 3  # a bug keeps its page
    with pytest.raises(CellExecutionError):  # and what runs notebooks still stops
        NotebookClient(new_notebook(cells=[new_code_cell(RAISES)]), kernel_name="python3").execute()
