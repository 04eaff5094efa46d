"""Execute an experiment's notebooks in order, skip what is finished, and keep a record good enough to repeat it.

A run folder holds

    notebooks/NAME.ipynb   the executed copies, also the partly executed one of a notebook that failed
    results/NAME.json      each notebook's own numbers
    work/                  data and checkpoints that the notebooks share
    state.json             what is finished, and from which fingerprint
    results.json           all numbers, gathered; report.html the same for people
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import nbformat
from traitlets.config import Config

from lipformer_core import provenance
from lipformer_core.files import write_json

from . import commands
from .experiment import NOTEBOOKS, Experiment, RunError, Step, load_experiment, resolve
from .gather import gather, machine
from .report import write_report

ROOT = NOTEBOOKS.parent
PACKAGE = ROOT / "lipformer_core"
ENCRYPTED = Config(KernelManager={"transport_encryption": "auto"})  # a kernel that talks in the clear warns of it


class NotebookFailed(RunError):
    """A notebook raised an error; the message names the cell and the partly executed copy."""


def run(
    name: str,
    *,
    out: Path | None = None,
    force: bool = False,
    notebooks: Path = NOTEBOOKS,
    say: Callable[[str], None] = print,
) -> Path:
    """Run the experiment `name` into `out` (default: `papermill_runs/NAME`) and return the path of its report.

    A notebook is skipped when its source, its parameters, the package's sources and everything before it are as
    they were when it last finished; once one is executed, all after it are. Data and weights that are finished are
    taken, whichever sources made them, and the report says so; `force` removes those of this run and executes all.
    Raises RunError before executing anything if the experiment does not fit its notebooks, and NotebookFailed at
    the first notebook that fails; numbers and report of what did finish are written all the same. An experiment's
    commands run before its notebooks; RunError at the first that fails.
    """
    experiment = load_experiment(name)
    out = (Path(out) if out else ROOT / "papermill_runs" / experiment.name).resolve()
    steps = resolve(experiment, out, notebooks)
    for folder in (out / "notebooks", out / "results", out / "work"):
        folder.mkdir(parents=True, exist_ok=True)

    state = _read_state(out)
    if force:
        _empty(out / "work", of_a_run=(out / "state.json").is_file())
        state = {}
        for work in sorted({Path(s.parameters.get("work", out / "work")) for s in steps} - {out / "work"}):
            say(f"warning: {work} is no folder of this run alone: what is finished there is kept")
    record = {**machine(steps), **provenance.revision(), "started": _now()}
    commands.execute(experiment.commands, out / "work", say)
    fingerprint = _sources()
    failure = None
    for index, step in enumerate(steps):
        fingerprint = _fingerprint(fingerprint, notebooks / f"{step.notebook}.ipynb", step.parameters)
        label = f"[{index + 1}/{len(steps)}] {step.name}"
        if not force and _finished(out, step, state, fingerprint):
            say(f"{label}: finished before, in {state[step.name]['seconds']:.0f} s")
            continue
        force = True  # what follows builds on this one: it is executed too, and until then its numbers do not count
        for later in steps[index + 1 :]:
            state.pop(later.name, None)
        say(f"{label}: running")
        entry = {
            "fingerprint": fingerprint,
            "finished": False,
            **record,
            "started": _now(),
            "parameters": step.parameters,
        }
        state[step.name] = entry
        write_json(out / "state.json", state)
        start = time.monotonic()
        try:
            _execute(step, out, notebooks)
        except NotebookFailed as error:
            entry["error"] = str(error)
            failure = error
        entry["seconds"] = round(time.monotonic() - start, 1)
        entry["finished"] = failure is None
        write_json(out / "state.json", state)
        if failure:
            break
        say(f"{label}: done in {entry['seconds']:.0f} s")

    return _conclude(experiment, steps, state, record, out, failure, say)


def _conclude(
    experiment: Experiment,
    steps: list[Step],
    state: dict,
    record: dict,
    out: Path,
    failure: NotebookFailed | None,
    say: Callable[[str], None],
) -> Path:
    numbers, warnings = gather(experiment, steps, state, record, out)
    write_json(out / "results.json", numbers)
    report = write_report(experiment, steps, state, numbers, out)
    for warning in warnings:
        say(f"warning: {warning}")
    say(f"numbers: {out / 'results.json'}")
    say(f"report:  {report}")
    if failure:
        raise failure
    return report


def _execute(step: Step, out: Path, notebooks: Path) -> None:
    """Run one notebook with papermill; the copy is saved after every cell, also when one fails."""
    import papermill
    from nbclient.exceptions import CellControlSignal, DeadKernelError

    copy = out / "notebooks" / f"{step.name}.ipynb"
    (out / "results" / f"{step.name}.json").unlink(missing_ok=True)  # numbers of an earlier try are not this one's
    try:
        with _kernel_environment():
            papermill.execute_notebook(
                str(notebooks / f"{step.notebook}.ipynb"),
                str(copy),
                parameters=step.parameters,
                kernel_name="python3",
                cwd=str(notebooks),
                progress_bar={"mininterval": 10, "maxinterval": 60, "leave": False, "desc": step.name},
                log_output=False,
                start_timeout=120,
                config=ENCRYPTED,
            )
    except papermill.PapermillExecutionError as error:
        raise NotebookFailed(
            f"{step.name} failed in cell [{error.exec_count}]: {error.ename}: {error.evalue}; "
            f"the partly executed copy: {copy}"
        ) from error
    except (CellControlSignal, DeadKernelError) as error:
        raise NotebookFailed(f"{step.name}: its kernel ended: {error}; the partly executed copy: {copy}") from error


@contextmanager
def _kernel_environment() -> Iterator[None]:
    """What kernels inherit: figures drawn into the notebook, and progress bars that write a line now and then only."""
    ours = {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "TQDM_MININTERVAL": "10", "LIPFORMER_LIVE": "0"}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _finished(out: Path, step: Step, state: dict, fingerprint: str) -> bool:
    entry = state.get(step.name, {})
    outputs = [out / "notebooks" / f"{step.name}.ipynb"]
    if "results" in step.parameters:
        outputs.append(Path(step.parameters["results"]))
    made = all(path.is_file() for path in outputs)
    if "work" in step.parameters:
        work = Path(step.parameters["work"])
        made = made and work.is_dir() and any(work.iterdir())
    return bool(entry.get("finished")) and entry.get("fingerprint") == fingerprint and made


def _fingerprint(before: str, notebook: Path, parameters: dict) -> str:
    """Hash of a notebook's sources (not its outputs), its parameters, and the fingerprint of what precedes it."""
    cells = [(cell.cell_type, cell.source) for cell in nbformat.read(notebook, as_version=4).cells]
    text = json.dumps([before, cells, parameters], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _sources(package: Path = PACKAGE) -> str:
    """Hash of the package's Python files: a revision would miss what is not committed yet."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _empty(work: Path, of_a_run: bool) -> None:
    """Remove the data and weights of a run. RunError if there are files that no run of this experiment has recorded."""
    content = list(work.iterdir())
    if content and not of_a_run:
        raise RunError(f"{work} holds files, but no state.json beside it says that a run made them; empty it yourself")
    for path in content:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _read_state(out: Path) -> dict:
    path = out / "state.json"
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise RunError(f"{path}: is damaged ({error}); delete it to execute all notebooks again") from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
