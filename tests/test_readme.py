"""What the README shows is true: its snippets run, its commands parse, its defaults are the configuration's."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import partial
from operator import attrgetter
from pathlib import Path

import pytest
import typer.main
from test_quiet import FOREIGN
from typer.testing import CliRunner

from lipformer_core.cli import app
from lipformer_core.config import Config, flat, preset
from lipformer_core.errors import WeightsMissing
from lipformer_core.evaluation.report import ROWS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FINDINGS = ROOT / "papermill_runs" / "README.md"  # what the experiments showed
PACKAGE = ROOT / "lipformer_core" / "README.md"  # the paper and this implementation
CARD = ROOT / "lipformer_core" / "pretrained" / "README.md"
PAGES = [ROOT / "README.md", FINDINGS, PACKAGE, *sorted((ROOT / "lipformer_core").glob("*/README.md"))]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
# the card of the weights names the commands of the revisions that made them
LINES = [line for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL) for line in block.splitlines()]
TRAINING = README.split("## Train on your data")[1].split("```bash\n")[1].split("```")[0].splitlines()
BASH = "\n".join(re.findall(r"```bash\n(.*?)```", TEXT.replace(CARD.read_text(encoding="utf-8"), ""), flags=re.DOTALL))
COMMANDS = [line for line in BASH.replace("\\\n", "").splitlines() if line.startswith("lipformer ")]
# what files hold and how often is looked: no matter of method
NOT_METHOD = {
    *("preset", "seed", "data.quality_gate", "data.correct_offset", "data.val_persons", "data.test_persons"),
    *("data.list_rows", "data.synthetic.seed", "data.synthetic.frames", "data.synthetic.size", "engine.check_every"),
}


def table_rows() -> list[list[str]]:
    """Cells of the table "Paper and this implementation", without its head."""
    part = PACKAGE.read_text(encoding="utf-8").split("## Paper and this implementation")[1].split("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_snippet_runs(snippet, tiny_run, tiny_config, tmp_path, monkeypatch):
    from lipformer_core import config
    from lipformer_core.data.prepared.example import write_clip
    from lipformer_core.data.synthetic import synthesise_clip

    shutil.copytree(tiny_run, tmp_path / "runs" / "small" / "run")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "preset", lambda name: tiny_config)
    files = write_clip(synthesise_clip(0, 0, 0, n_frames=12, size=256), tmp_path)  # large enough for a face to be found
    shutil.copy(files.video, "video.mp4")
    shutil.copy(files.audio, "speech.wav")
    try:
        exec(compile(snippet, "README.md", "exec"), {})
    except WeightsMissing as error:
        pytest.skip(f"needs a landmark network: {error}")


@pytest.mark.parametrize("line", COMMANDS)
def test_command_parses(line):
    command, words = typer.main.get_command(app), shlex.split(line, comments=True)[1:]
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context(command.name, words)  # a typer error for a name or value that the command does not know


def test_no_line_is_of_another_kind():
    """What is run below: cloning and dubbing as they stand, training with the preset `tiny`. `make` is asked what it
    would do, and the experiment on filmed clips is resolved, for both take long."""
    kinds = ("git clone ", "make ", "lipformer ", "LIPFORMER_CLIPS=/path/to/clips python -m papermill_runs ")
    assert LINES and [line for line in LINES if not line.startswith(kinds)] == []


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    """A folder with what the README's commands name: video.mp4, speech.wav, and VIDEOS of five persons."""
    from lipformer_core.data.prepared.example import write_clip
    from lipformer_core.data.synthetic import synthesise_clip

    folder = tmp_path_factory.mktemp("footage")
    (folder / "VIDEOS").mkdir()
    for person in range(5):
        files = write_clip(synthesise_clip(0, person, 0, n_frames=16, size=256), folder)
        shutil.copy(files.video, folder / "VIDEOS")
    shutil.copy(files.video, folder / "video.mp4")
    shutil.copy(files.audio, folder / "speech.wav")
    return folder


def test_it_is_cloned_and_set_up(tmp_path):
    if not (ROOT / ".git").exists() or None in map(shutil.which, ("git", "make", "bash")):
        pytest.skip("needs a git checkout, git, make and bash")
    clone, setup = (next(line for line in LINES if line.startswith(start)) for start in ("git clone", "make setup"))
    lines = [re.sub(r"https://\S+", shlex.quote(str(ROOT)), clone), setup.replace("make ", "make -n ").split("&&")[0]]
    done = subprocess.run(["bash", "-ec", "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "-m venv .venv" in done.stdout, done.stderr[-2000:]
    assert setup.endswith("source .venv/bin/activate")


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("make ")])
def test_make_knows_what_to_do(line):
    if shutil.which("make") is None:
        pytest.skip("no make here")
    words = shlex.split(line.split("&&")[0], comments=True)
    done = subprocess.run([*words, "-n", "--always-make"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and ".venv/bin/python" in done.stdout, done.stderr


@pytest.mark.parametrize("line", [line for line in LINES if "papermill_runs" in line])
def test_an_experiment_can_be_run_as_written(line, tmp_path, monkeypatch):
    from papermill_runs.experiment import load_experiment, resolve

    variable, name = re.fullmatch(r"(\w+)=\S+ python -m papermill_runs (\w+)", line).groups()
    monkeypatch.setenv(variable, str(tmp_path))
    assert resolve(load_experiment(name), tmp_path)


def test_a_video_is_dubbed_and_no_library_is_heard(footage):
    line = next(line for line in LINES if line.startswith("lipformer dub") and "--run" not in line)
    command = [sys.executable, "-m", "lipformer_core.cli", *shlex.split(line)[1:]]
    shown = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=footage, env=shown, capture_output=True, text=True)
    if done.returncode == 2 and "face_landmarker.task" in done.stderr:
        pytest.skip(f"needs a landmark network: {done.stderr}")
    assert done.returncode == 0, done.stderr[-2000:]
    assert (footage / "dubbed.mp4").is_file() and (footage / "dubbed.json").is_file()
    assert "dubbing" in done.stderr, "no progress was shown"
    assert not FOREIGN.search(done.stderr + done.stdout), done.stderr


@pytest.mark.slow
def test_a_model_is_trained_on_own_data(footage, monkeypatch):
    """With the preset `tiny`, a short mouth meter, and without the gate, which refuses clips below a second."""
    from lipformer_core.data.prepared.extraction import tracker_name
    from lipformer_core.evaluation import protocol

    if tracker_name() == "none":
        pytest.skip("needs a landmark network")
    monkeypatch.setattr(protocol, "train_meter", partial(protocol.train_meter, steps=30))
    monkeypatch.chdir(footage)
    for line in TRAINING:
        words = shlex.split(re.sub(r"--preset \w+", "--preset tiny", line))[1:]
        words += ["--set", "data.quality_gate=false"] if words[0] == "prepare" else []
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, (line, done.output, done.exception)
    assert (footage / "dubbed.mp4").is_file() and (footage / "runs/mine/evaluation/results.json").is_file()


def test_is_read_at_one_sitting():
    assert len(README.splitlines()) <= 150


def test_every_command_is_shown():
    shown = {tuple(word for word in shlex.split(line)[1:3] if not word.startswith("-")) for line in COMMANDS}
    top = typer.main.get_command(app).commands
    assert {name for name, *_ in shown} == set(top)


def test_defaults_in_the_table_are_the_configurations():
    quick, paper = preset("quick"), preset("paper")
    for item, _, _, options, in_quick, in_paper in table_rows():
        names = re.findall(r"`([\w.]+)`", options)
        for config, said in ((quick, in_quick), (paper, in_paper)):
            values = [attrgetter(name)(config) for name in names]
            values = [str(list(v)) if isinstance(v, tuple) else str(v) for v in values]
            assert said.split(" · ") == (values or [""]), item


def test_every_setting_of_the_method_is_in_the_table():
    shown = {name for row in table_rows() for name in re.findall(r"`([\w.]+)`", row[3])}
    assert {name for name, _ in flat(Config().to_dict())} - NOT_METHOD == shown


def test_names_every_pretrained_file():
    from lipformer_core.weights import KNOWN

    assert [name for name in KNOWN if name not in TEXT] == []


def anchors(text: str) -> set[str]:
    """What "#..." of a link into a Markdown text may name: its headings, as GitHub spells them."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_and_pictures_exist(page):
    missing = []
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.is_file() or (anchor and anchor not in anchors(file.read_text(encoding="utf-8"))):
            missing.append(target)
    assert missing == []


def test_anchors_are_githubs():
    assert anchors("# What it showed: 1/2\n## `quick`, one man\ntext # no heading") == {
        "what-it-showed-12",
        "quick-one-man",
    }


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_no_number_is_left_open(page):
    assert re.findall(r"«[^»]*»|@@", page.read_text(encoding="utf-8")) == []


def test_every_experiment_is_named():
    names = [path.stem for path in (ROOT / "papermill_runs").glob("*.yaml")]
    assert names and [name for name in names if name not in TEXT] == []


def test_result_keys_in_the_readme_have_stable_names():
    from papermill_runs.gather import KEYS

    part = README.split("## Results")[1].split("\n## ")[0]
    keys = set(re.findall(r"`(\w+\.\w+)`", part)) - {"results.json"}
    assert keys and keys <= set(KEYS)
    assert "lipformer" in ROWS


def test_every_test_that_is_named_exists():
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    assert len(named) > 20 and [name for name in sorted(named) if f"def {name}(" not in tests] == []
