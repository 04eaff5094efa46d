"""Notebooks in a real browser: Chromium drives JupyterLab; 01 from top to bottom, 06 from the empty panel to a video.

And what the panel does, without a browser. Screenshots lie in LIPFORMER_SCREENSHOTS, or in pytest's temporary folder.
"""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import av
import nbformat
import numpy as np
import pytest
from material import frame_index, write_video
from test_dubbing import Material

from lipformer_core import widgets
from lipformer_core.data.media import frame_times, iter_frames, probe
from lipformer_core.dubbing import preview
from lipformer_core.errors import ConfigError

ROOT = Path(__file__).parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE = 240  # seconds for one step, on a machine that has other things to do
WIDGET = "application/vnd.jupyter.widget-view+json"
PLAYED = """async video => {
    await video.play();
    await new Promise(done => setTimeout(done, 400));
    return {ready: video.readyState, at: video.currentTime, seconds: video.duration, width: video.videoWidth};
}"""


@pytest.fixture
def lab(tmp_path, request):
    """Address of a JupyterLab that serves a copy of a notebook, without outputs, with a preset."""
    pytest.importorskip("jupyterlab", reason="the extra `lab` is not installed")
    name, preset = request.param
    notebook = nbformat.read(ROOT / "notebooks" / name, 4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        cell.source = cell.source.replace('preset = "quick"', f'preset = "{preset}"')
    (tmp_path / "notebooks").mkdir()
    nbformat.write(notebook, tmp_path / "notebooks" / name)
    silent = ("TQDM_DISABLE", "LIPFORMER_LIVE", "MPLBACKEND")
    environment = {name: value for name, value in os.environ.items() if name not in silent}
    environment |= {f"JUPYTER_{kind}_DIR": str(tmp_path / "jupyter") for kind in ("CONFIG", "RUNTIME")}
    environment |= {"PYTHONPATH": str(ROOT), "LIPFORMER_WORK": str(tmp_path / "work")}
    options = ["--no-browser", "--allow-root", "--ServerApp.port=0", "--IdentityProvider.token=secret"]
    options += ["--KernelManager.transport_encryption=auto"]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "notebooks", *options],
            cwd=tmp_path,
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        until = time.monotonic() + PATIENCE
        while not (found := list((tmp_path / "jupyter").glob("jpserver-*.json"))):
            assert server.poll() is None and time.monotonic() < until, (tmp_path / "log").read_text()[-2000:]
            time.sleep(0.2)
        port = json.loads(found[0].read_text())["port"]
        yield f"http://127.0.0.1:{port}/lab/tree/{name}?token=secret"
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture
def page(tmp_path):
    """A page of a headless Chromium with a camera and a microphone that are not real; a screenshot at the end."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    options = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*options, "--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1300})
        page.set_default_timeout(1000 * PATIENCE)
        yield page
        screenshot(page, "last", tmp_path)
        browser.close()


def screenshot(page, name: str, folder: Path) -> None:
    page.screenshot(path=Path(os.environ.get("LIPFORMER_SCREENSHOTS") or folder) / f"{name}.png")


def choose(page, source, path: Path) -> None:
    """Choose a file as a person does, and wait until it can be played."""
    with page.expect_file_chooser() as chooser:
        source.locator("button.widget-upload").click()
    chooser.value.set_files(path)
    source.locator("video[src], audio[src]").first.wait_for()


def run_all(page, lab: str) -> None:
    """Open the notebook and run all of its cells."""
    page.goto(lab)
    page.get_by_text("(ipykernel) | Idle").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("lab", [("01_data_preparation.ipynb", "quick")], indirect=True)
def test_the_first_notebook_from_top_to_bottom(lab, page, tmp_path):
    run_all(page, lab)
    page.get_by_text(re.compile(r"^\s*\d+ numbers\s*$")).wait_for()
    page.get_by_text("(ipykernel) | Idle").wait_for()
    page.keyboard.press("Control+s")
    page.locator(".jp-mod-dirty").wait_for(state="detached")

    saved, committed = (
        nbformat.read(folder / "01_data_preparation.ipynb", 4)
        for folder in (tmp_path / "notebooks", ROOT / "notebooks")
    )
    assert [kinds(cell) for cell in saved.cells] == [kinds(cell) for cell in committed.cells]
    panel, seen = page.locator(".jp-WindowedPanel-outer"), 0
    for part in range(11):
        panel.evaluate("(panel, share) => { panel.scrollTop = share * panel.scrollHeight; }", part / 10)
        page.wait_for_timeout(1000)
        widths = panel.locator(".jp-RenderedImage img").evaluate_all("all => all.map(one => one.naturalWidth)")
        assert all(width > 100 for width in widths)
        seen = max(seen, len(widths))
        screenshot(page, f"first_{part}", tmp_path)
    assert seen


def kinds(cell) -> list[list[str]]:
    """What a cell shows: the kinds of each of its outputs, but progress, which committed notebooks show none of."""
    shown = [sorted(output.get("data", {output.output_type: None})) for output in cell.get("outputs", [])]
    return [one for one in shown if WIDGET not in one]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("lab", [("06_talking_face.ipynb", "tiny")], indirect=True)
def test_from_the_empty_panel_to_a_video_that_plays(lab, page, tmp_path):
    run_all(page, lab)
    video, voice = (page.locator(".lipformer-source").nth(n) for n in (0, 1))
    video.wait_for()
    page.get_by_text("3 results").wait_for()
    assert page.locator(".jp-OutputArea [data-mime-type='application/vnd.jupyter.stderr']").all_inner_texts() == []
    screenshot(page, "empty", tmp_path)

    example = tmp_path / "work/example"
    choose(page, video, next(example.glob("*.mp4")))
    voice.get_by_text("● record").click()
    voice.get_by_text("■ stop").wait_for()
    page.wait_for_timeout(500)
    voice.get_by_text("■ stop").click()
    voice.locator("audio[src]").wait_for()
    recorded = tmp_path / "work/dubbed/voice" / Path(voice.locator("input[type=text]").input_value()).name
    assert recorded.suffix == ".webm" and probe(recorded).has_audio
    choose(page, voice, next(example.glob("*.wav")))
    thumbnails = page.locator(".widget-toggle-button >> visible=true")
    assert thumbnails.count() == 7 and "mod-active" in thumbnails.first.get_attribute("class")
    thumbnails.nth(2).click()
    page.get_by_role("combobox").filter(has_text="repeat").select_option("repeat the video")
    screenshot(page, "chosen", tmp_path)

    page.locator("button[title=Dub]").click()
    page.get_by_text("Done in").wait_for()
    result = page.locator("video[src]").last
    played = result.evaluate(PLAYED)
    assert played["ready"] >= 2 and 0.1 < played["at"] <= played["seconds"] and played["width"] == 256
    with page.expect_download() as download:
        page.get_by_text("Download").last.click()
    dubbed = tmp_path / "work/dubbed" / download.value.suggested_filename
    assert download.value.path().read_bytes() == dubbed.read_bytes()
    assert played["seconds"] == pytest.approx(probe(dubbed).duration_s, abs=0.05)
    result.scroll_into_view_if_needed()


@pytest.fixture
def panel(tmp_path):
    """The panel with a video and a voice of one name, uploaded; nothing in it has been pressed."""
    panel = widgets._DubPanel(None, tmp_path)
    for source in (panel.video, panel.voice):
        content = source.folder.name.encode()
        source._keep(widgets.save_upload(({"name": f"{'x' * 200}.mp4", "content": content},), source.folder))
    return panel


def pressed(panel) -> str:
    """What the panel says when Dub has been pressed and everything is over."""
    panel.button.click()
    until = time.monotonic() + 30
    while panel.button.disabled:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert panel.stop.disabled
    return panel.text.value


def test_uploads_of_one_name_stay_two_files_and_give_a_name_that_fits(panel, monkeypatch):
    given = []

    def fail(*paths, **_):
        given.extend(paths[1:])
        raise ConfigError("no <face> here")

    monkeypatch.setattr("lipformer_core.dubbing.dub.dub", fail)
    assert pressed(panel) == "no &lt;face&gt; here"
    video, audio, out = given
    assert (video.read_bytes(), audio.read_bytes()) == (b"video", b"voice") and len(out.name) < 200


def test_stop_stops(panel, monkeypatch):
    def endless(*_, progress, **__):
        progress(0.1)
        panel.stop.click()
        progress(0.2)

    monkeypatch.setattr("lipformer_core.dubbing.dub.dub", endless)
    assert pressed(panel).startswith("Stopped")


def test_an_error_of_a_library_is_said_and_the_button_works_again(panel, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("lipformer_core.dubbing.dub.dub", full)
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    assert pressed(panel) == "RuntimeError: out of memory"


def test_without_files_nothing_runs(tmp_path):
    panel = widgets._DubPanel(None, tmp_path)
    assert pressed(panel) == "Choose a video (or a portrait) and a voice first."


def test_a_click_on_a_thumbnail_chooses_a_face_and_a_moment(panel, monkeypatch):
    faces = [np.full((96, 96, 3), grey, np.uint8) for grey in (50, 200)]
    monkeypatch.setattr(preview, "faces_at", lambda _: {0.0: faces, 0.5: faces[:1]})
    assert (panel.face.value, panel.reference.value) == ("largest", None)
    panel._look(None)
    panel.face.buttons.index = 2
    panel.reference.buttons.index = 2
    assert (panel.face.value, panel.reference.value) == (1, 0.5)
    monkeypatch.setattr(preview, "faces_at", lambda _: {0.0: faces[:1]})
    panel._look(None)
    assert (panel.face.value, panel.reference.value) == ("largest", None)
    assert panel.face.box.layout.display == panel.reference.box.layout.display == "none"  # there is no choice


@pytest.mark.parametrize("variable", [{"TQDM_DISABLE": "1"}, {"LIPFORMER_LIVE": "0"}], ids=str)
def test_where_nobody_looks_there_is_no_panel(variable, monkeypatch, tmp_path):
    for name, value in variable.items():
        monkeypatch.setenv(name, value)
    assert widgets.dub_panel(None, tmp_path) is None


def test_a_recording_becomes_a_file(tmp_path):
    url = f"data:audio/webm;codecs=opus;base64,{base64.b64encode(b'sound').decode()}"
    path = widgets.save_recording(url, tmp_path / "voice")
    assert path.suffix == ".webm" and path.read_bytes() == b"sound"
    assert widgets.save_recording("", tmp_path) is None


def test_faces_are_found_at_moments_spread_over_the_beginning(tmp_path, monkeypatch):
    m = Material(tmp_path, n=50, fps=25)

    class Tracker:
        def detect(self, picture):
            marks = m.marks[frame_index(picture)]
            return [] if frame_index(picture) < 10 else [(marks + [50, 0], None), (marks, None)]

    for name in ("open_tracker", "open_trackers"):
        monkeypatch.setattr(preview, name, Tracker)
    found = preview.faces_at(m.video, 4)
    assert [*found] == pytest.approx([0.52, 1.0, 1.52])  # the first one shows no face
    left, right = next(iter(found.values()))
    assert left.shape == right.shape == (96, 96, 3) and left.std() > right.std() + 5  # only background on the right


def test_side_by_side_shows_the_source_on_the_results_time_line(tmp_path):
    m = Material(tmp_path, n=10, seconds=1.0)
    pair = preview.side_by_side(m.dub(), tmp_path / "pair.mp4", seconds=0.6)
    shown = [picture for _, picture in iter_frames(pair)]
    assert [picture.shape for picture in shown] == [(96, 256, 3)] * 15 and probe(pair).has_audio
    with av.open(str(pair)) as container:
        assert container.metadata["comment"].startswith("Synthetic media")
    there_and_back = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 8, 7, 6, 5, 4]
    for side in (np.s_[:, :128], np.s_[:, 128:]):
        assert [frame_index(np.ascontiguousarray(picture[side])) for picture in shown] == there_and_back


def test_side_by_side_of_joined_pieces_whose_clock_leaps(tmp_path):
    m = Material(tmp_path, n=40, seconds=2.0)
    joined = tmp_path / "joined.ts"
    pieces = (write_video(tmp_path / f"{n}.ts", m.frames[n : n + 20]) for n in (0, 20))
    joined.write_bytes(b"".join(piece.read_bytes() for piece in pieces))
    np.savez(m.track, landmarks=m.marks[: len(frame_times(joined))])
    report = m.dub(video=joined)
    shown = [picture for _, picture in iter_frames(preview.side_by_side(report, tmp_path / "pair.mp4"))]
    sides = [[frame_index(np.ascontiguousarray(p[s])) for p in shown] for s in (np.s_[:, :128], np.s_[:, 128:])]
    assert sides[0] == sides[1] and len(shown) == report.frames
