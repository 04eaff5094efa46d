"""What other libraries have to say does not reach a user, and an error of ours is one sentence."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook
from processes import free_port

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


@pytest.mark.slow
def test_lab_starts_kernels_without_a_warning(tmp_path):
    if shutil.which("make") is None:
        pytest.skip("no make here")
    shown = subprocess.run(["make", "-n", "lab"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    _, *arguments = shlex.split(shown.splitlines()[-1], comments=True)
    port = free_port()
    arguments += ["--no-browser", "--allow-root", f"--port={port}", "--IdentityProvider.token=t"]
    log = tmp_path / "log"
    with log.open("w") as file:
        lab = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
    try:
        kernel = _ask(port, "POST", "kernels", patience=60)["id"]
        _until(lambda: _ask(port, "GET", f"kernels/{kernel}")["execution_state"] != "starting", 60)
    finally:
        lab.terminate()
        lab.wait(30)
    assert "Kernel started" in log.read_text() and "over TCP" not in log.read_text(), log.read_text()


def _ask(port: int, method: str, what: str, patience: float = 0) -> dict:
    """The server's answer, asked again while it is not there yet."""
    url, end = f"http://127.0.0.1:{port}/api/{what}", time.monotonic() + patience
    while True:
        try:
            headers = {"Authorization": "token t", "Content-Type": "application/json"}
            request = urllib.request.Request(url, b"{}" if method == "POST" else None, headers, method=method)
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except ConnectionError:
            pass
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ConnectionError):
                raise
        assert time.monotonic() < end, "the server does not answer"
        time.sleep(0.3)


def _until(true: object, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.3)


def test_an_error_of_ours_is_one_sentence_in_a_notebook():
    notebook = new_notebook(cells=[new_code_cell(RAISES), new_code_cell("1 / 0")])
    client = NotebookClient(notebook, kernel_name="python3", allow_errors=True)
    client.execute()
    ours, bug = (cell.outputs[0] for cell in notebook.cells)
    assert ours.traceback == ["NoFaceFound: no face: {}"] and ours.ename == "NoFaceFound"
    assert len("\n".join(bug.traceback).splitlines()) > 3  # a bug keeps its page
    with pytest.raises(CellExecutionError):  # and what runs notebooks still stops
        NotebookClient(new_notebook(cells=[new_code_cell(RAISES)]), kernel_name="python3").execute()
