"""What notebooks show while something is going on: curves of a training, and a panel to dub a video."""

import base64
import html
import io
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .dubbing.report import DubReport
from .errors import LipFormerError
from .files import KEPT
from .model.lipformer import LipFormer

if TYPE_CHECKING:
    import ipywidgets

LARGEST = 64 * 2**20  # bytes that are sent to a browser at once
# A browser records, and leaves what it has as a data URL in the hidden text field beside its button.
RECORDER = """
<button class="jupyter-widgets jupyter-button widget-button" style="width: auto; margin: 0" onclick="(async button => {
  if (button.recorder) return button.recorder.stop();
  const screen = button.nextElementSibling, parts = [];
  try {
    const stream = await navigator.mediaDevices.getUserMedia({audio: true, video: CAMERA});
    const recorder = button.recorder = new MediaRecorder(stream, {videoBitsPerSecond: 1500000});
    screen.srcObject = stream;
    screen.style.display = CAMERA ? 'block' : 'none';
    button.textContent = '■ stop';
    recorder.ondataavailable = event => parts.push(event.data);
    recorder.onstop = () => {
      stream.getTracks().forEach(track => track.stop());
      screen.style.display = 'none';
      button.recorder = null;
      button.textContent = '● record';
      const reader = new FileReader(), field = button.closest('.lipformer-source').querySelector('textarea');
      reader.onload = () => {
        field.value = reader.result;
        field.dispatchEvent(new Event('input', {bubbles: true}));
      };
      reader.readAsDataURL(new Blob(parts, {type: recorder.mimeType}));
    };
    recorder.start();
    setTimeout(() => recorder.state == 'recording' && recorder.stop(), 30000);
  } catch (error) { button.textContent = 'nothing to record with'; }
})(this)">● record</button><video muted autoplay playsinline style="display: none; height: 120px"></video>
"""


@contextmanager
def live_curves(run: Path | str, names: Sequence[str], seconds: float = 5.0) -> Iterator[None]:
    """Draw the curves of whatever is trained into `run` within the block, anew every few seconds, beneath the cell.

    names : columns of the stage's log; those that it lacks are left out
    Draws nothing outside a notebook, for what was finished before, and where TQDM_DISABLE or LIPFORMER_LIVE=0 is set.
    """
    from IPython import get_ipython
    from IPython.display import DisplayHandle

    if _silent() or get_ipython() is None:
        yield
        return
    handle, stop = DisplayHandle(), threading.Event()
    handle.display({"text/plain": ""}, raw=True)
    drawer = threading.Thread(target=_redraw, args=(handle, Path(run), names, seconds, stop), daemon=True)
    drawer.start()
    try:
        yield
    finally:
        stop.set()
        drawer.join()


def _silent() -> bool:
    return bool(os.environ.get("TQDM_DISABLE")) or os.environ.get("LIPFORMER_LIVE") == "0"


def _redraw(handle: object, run: Path, names: Sequence[str], seconds: float, stop: threading.Event) -> None:
    from .figures.plots import training_curves
    from .training.journal import LOG, read_log

    drawn, ended = time.time(), False
    while not ended:
        ended = stop.wait(seconds)
        times = {log: log.stat().st_mtime for log in run.glob(f"*/{LOG}")}
        newest = max(times, key=times.get, default=None)
        if newest is None or times[newest] <= drawn:
            continue
        with suppress(ValueError):  # a row that is being written
            known = read_log(newest.parent)
            shown = [name for name in names if name in known]
            if shown:
                handle.update(training_curves(newest, shown))
                drawn = times[newest]


def dub_panel(model: LipFormer, folder: Path | str) -> "ipywidgets.VBox":
    """A panel to choose or record a video (or portrait) and a voice, to dub one with the other, and to see the result.

    None where nobody looks: where TQDM_DISABLE or LIPFORMER_LIVE=0 is set. What is made lies in `folder`. Errors that a
    user can mend are shown in the panel.
    """
    return None if _silent() else _DubPanel(model, Path(folder)).box


class _Stopped(Exception):
    """The stop button was pressed."""


class _DubPanel:
    """The panel's parts and what they do; `box` is the whole of it. The dubbing runs in a thread of its own."""

    def __init__(self, model: LipFormer, folder: Path) -> None:
        import ipywidgets as w

        self.model, self.folder = model, folder
        self.video = _Source("video or portrait", "video/*,image/*", folder / "video", camera=True)
        self.voice = _Source("voice", "audio/*,video/*", folder / "voice", camera=False)
        self.face, self.reference, self.result = _Strip("face"), _Strip("mouth from"), w.VBox()
        self.policy = w.Dropdown(
            options=[("play the video back and forth", "pingpong"), ("repeat the video", "loop"), ("cut it", "cut")],
            description="a longer voice:",
            style={"description_width": "initial"},
        )
        self.button = w.Button(description="Dub", button_style="primary", icon="play")
        self.stop = w.Button(description="Stop", icon="stop", disabled=True)
        self.bar, self.text = w.FloatProgress(min=0, max=1), w.HTML("Choose a video (or a portrait) and a voice.")
        self.video.path.observe(self._look, "value")
        self.face.buttons.observe(lambda _: self._lay_references(), "value")
        self.button.on_click(self._start)
        self.stop.on_click(lambda _: self._stopped.set())
        self._stopped, self._seen = threading.Event(), {}
        self.box = w.VBox(
            [
                *(self.video.box, self.face.box, self.reference.box, self.voice.box),
                w.HBox([self.policy, self.button, self.stop, self.bar]),
                *(self.text, self.result),
            ]
        )

    def _say(self, text: str) -> None:
        self.text.value = html.escape(text)

    def _look(self, _: object) -> None:
        """A video was named: lay out its faces to choose from."""
        from .dubbing.preview import faces_at

        self._seen = {}
        path = self.video.path.value
        if path:
            self._say("Looking for faces …")
            try:
                self._seen = faces_at(path)
                self._say("" if self._seen else "No face is seen in the beginning; dubbing looks on.")
            except (LipFormerError, OSError) as error:
                self._say(str(error))
        first = next(iter(self._seen.values()), [])
        self.face.lay("largest", "largest", [(f"{n + 1}", n, picture) for n, picture in enumerate(first)])
        self._lay_references()

    def _lay_references(self) -> None:
        number = 0 if self.face.value == "largest" else self.face.value
        shown = [(f"{at:.1f} s", at, faces[min(number, len(faces) - 1)]) for at, faces in self._seen.items()]
        self.reference.lay("automatic", None, shown)

    def _start(self, _: object) -> None:
        if not (self.video.path.value and self.voice.path.value):
            self._say("Choose a video (or a portrait) and a voice first.")
            return
        self.button.disabled, self.stop.disabled, self.bar.value, self.result.children = True, False, 0, ()
        self._stopped.clear()
        self._began = self._told = time.monotonic()
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        from .dubbing.dub import dub

        video, voice = Path(self.video.path.value), Path(self.voice.path.value)
        out = self.folder / f"{video.stem[:KEPT]}_says_{voice.stem[:KEPT]}.mp4"
        choice = {"face": self.face.value, "reference": self.reference.value, "policy": self.policy.value}
        self._say("Dubbing …")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._show(dub(self.model, video, voice, out, **choice, progress=self._tell))
        except _Stopped:
            self._say("Stopped. Dub goes on from there.")
        except (LipFormerError, OSError) as error:
            self._say(str(error))
        except Exception as error:
            self._say(f"{type(error).__name__}: {error}")
            raise
        finally:
            self.button.disabled, self.stop.disabled = False, True

    def _tell(self, share: float) -> None:
        if self._stopped.is_set():
            raise _Stopped
        now = time.monotonic()
        if now > self._told + 0.2:
            self.bar.value, self._told = share, now
            self._say(f"Dubbing … {share:.0%}, {(now - self._began) * (1 - share) / max(share, 1e-3):.0f} s left")

    def _show(self, report: DubReport) -> None:
        import ipywidgets as w

        from .data.media import read_audio
        from .dubbing.preview import lip_opening, side_by_side
        from .figures.plots import sound_and_lips
        from .timing import SAMPLE_RATE

        self.bar.value = 1
        self._say("Dubbed. Drawing …")
        pair, out = side_by_side(report, self.folder / "side_by_side.mp4"), Path(report.out)
        picture = io.BytesIO()
        curves = sound_and_lips(read_audio(out), SAMPLE_RATE, lip_opening(out, self.face.value), report.fps)
        curves.savefig(picture, format="png", dpi=100)
        self.result.children = [
            w.HTML("left: the source, right: dubbed"),
            _player(pair, width="800px"),
            w.Image(value=picture.getvalue(), format="png", layout=w.Layout(width="800px", max_width="100%")),
            w.HTML("<br>".join([download_link(out), *map(html.escape, [str(out.resolve()), *report.warnings])])),
        ]
        found = ", ".join(f"{number} {status}" for status, number in report.statuses.items() if number)
        self._say(f"Done in {time.monotonic() - self._began:.0f} s: {report.frames} frames, {found}.")


class _Source:
    """Three ways to name a file: choose it, record it, write its path. `path` holds the name, `box` the whole."""

    def __init__(self, name: str, accept: str, folder: Path, camera: bool) -> None:
        import ipywidgets as w

        self.folder = folder
        self.path = w.Text(placeholder="or its path, from 10 MB on", continuous_update=False)
        upload = w.FileUpload(accept=accept, description=name, layout=w.Layout(width="180px"))
        recorded = w.Textarea(layout=w.Layout(display="none"))
        recorder = w.HTML(RECORDER.replace("CAMERA", str(camera).lower()))
        self._shown = w.VBox()
        upload.observe(lambda change: self._keep(save_upload(change["new"], folder)), "value")
        recorded.observe(lambda change: self._keep(save_recording(change["new"], folder)), "value")
        self.path.observe(self._show, "value")
        self.box = w.VBox([w.HBox([upload, recorder, recorded, self.path]), self._shown])
        self.box.add_class("lipformer-source")

    def _keep(self, path: Path | None) -> None:
        if path:
            self.path.value = ""  # also a file of the same name is news
            self.path.value = str(path)

    def _show(self, _: object) -> None:
        path = Path(self.path.value)
        self._shown.children = [_player(path)] if path.is_file() else []


class _Strip:
    """A word and pictures, of which one is chosen by a click; `value` is what it stands for."""

    def __init__(self, name: str) -> None:
        import ipywidgets as w

        self._values: list = [None]
        self.buttons, self._look, self._class = w.ToggleButtons(description=name), w.HTML(), f"lipformer-{id(self)}"
        self.buttons.add_class(self._class)
        self.box = w.VBox([self._look, self.buttons], layout=w.Layout(display="none"))

    @property
    def value(self) -> object:
        return self._values[self.buttons.index or 0]

    def lay(self, word: str, default: object, pictures: Sequence[tuple[str, object, np.ndarray]]) -> None:
        """Show a word for `default`, and pictures: (label, value, (S, S, 3) uint8) each; no choice: hidden."""
        rules = [
            f".{self._class} button {{width: 84px; height: 84px; padding: 0; vertical-align: top}}",
            f".{self._class} button + button {{padding: 58px 0 0; color: white !important; text-shadow: 0 0 4px #000}}",
            f".{self._class} .mod-active {{outline: 3px solid #1976d2; outline-offset: -3px}}",
        ]
        rules += [
            f".{self._class} button:nth-child({n}) {{background: url({_data_url(picture)}) center / cover}}"
            for n, (_, _, picture) in enumerate(pictures, 2)
        ]
        self._look.value = f"<style>{''.join(rules)}</style>"
        self._values = [default, *(value for _, value, _ in pictures)]
        self.buttons.options = [word, *(label for label, _, _ in pictures)]
        self.buttons.index = None  # or the browser would not mark the first one
        self.buttons.index = 0
        self.box.layout.display = None if pictures[1:] else "none"


def _data_url(picture: np.ndarray) -> str:
    import cv2

    jpeg = cv2.imencode(".jpg", picture[..., ::-1])[1].tobytes()
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _player(path: Path, width: str = "auto") -> "ipywidgets.Widget":
    import ipywidgets as w

    from .data.media import probe

    try:
        info = probe(path)
    except LipFormerError as error:
        return w.HTML(html.escape(str(error)))
    if path.stat().st_size > LARGEST:
        return w.HTML("too large to be shown here")
    height = "180px" if width == "auto" else "auto"
    shape = w.Layout(width=width, height=height, max_width="100%", align_self="flex-start")
    if info.is_image:
        return w.Image(value=path.read_bytes(), layout=shape)
    once = {"value": path.read_bytes(), "format": path.suffix[1:], "autoplay": False, "loop": False}
    return w.Video(**once, layout=shape) if info.has_video else w.Audio(**once)


def download_link(path: Path) -> str:
    """HTML that downloads a video, without a server: the link holds the file. Of a large one it is the name alone."""
    name = html.escape(path.name)
    if path.stat().st_size > LARGEST:
        return name
    url = f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}"
    return f'<a download="{name}" href="{url}"><b>Download {name}</b></a>'


def save_recording(url: str, folder: Path) -> Path | None:
    """Write what a browser recorded, a data URL, to `folder`; None if it is none."""
    kind, _, content = url.partition(";base64,")
    if not content:
        return None
    ending = kind.partition("/")[2].partition(";")[0]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"recorded_{time.strftime('%H%M%S')}.{ending}"
    path.write_bytes(base64.b64decode(content))
    return path


def save_upload(value: object, folder: Path) -> Path | None:
    """Write an upload of ipywidgets 7 (a mapping) or 8 (a tuple) to `folder`; None if there is none."""
    files = [{"name": k, **v} for k, v in value.items()] if isinstance(value, dict) else list(value)
    if not files:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / Path(files[-1]["name"]).name
    path.write_bytes(bytes(files[-1]["content"]))
    return path
