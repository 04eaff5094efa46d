"""What notebooks show while something is going on: curves of a training, and a panel to dub a video."""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from .model.lipformer import LipFormer


@contextmanager
def live_curves(run: Path | str, names: Sequence[str], seconds: float = 5.0) -> Iterator[None]:
    """Draw the curves of whatever is trained into `run` within the block, anew every few seconds, beneath the cell.

    names : columns of the stage's log; those that it lacks are left out
    Draws nothing outside a notebook, for what was finished before, and where TQDM_DISABLE or LIPFORMER_LIVE=0 is set.
    """
    from IPython import get_ipython
    from IPython.display import DisplayHandle

    silent = os.environ.get("TQDM_DISABLE") or os.environ.get("LIPFORMER_LIVE") == "0"
    if silent or get_ipython() is None:
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
                handle.update(training_curves(newest, shown, title=newest.parent.name))
                drawn = times[newest]


def dub_panel(model: LipFormer, folder: Path | str):  # noqa: ANN201 - an ipywidgets VBox
    """Upload fields for a video (or portrait) and a sound, and a button that dubs them into `folder`.

    Errors that a user can mend are shown in the panel. A face has to be found in the video, so a landmark network's
    file has to be present (`lipformer info` says which).
    """
    import ipywidgets as widgets

    folder = Path(folder)
    video = widgets.FileUpload(accept="video/*,image/*", description="video or portrait")
    audio = widgets.FileUpload(accept="audio/*,video/*", description="speech")
    policy = widgets.Dropdown(options=["pingpong", "loop", "cut", "error"], description="if longer")
    button = widgets.Button(description="dub", button_style="primary")
    screen = widgets.Output()

    def on_click(_: object) -> None:
        screen.clear_output()
        with screen:
            _dub_uploads(model, video.value, audio.value, folder, policy.value)

    button.on_click(on_click)
    return widgets.VBox([widgets.HBox([video, audio, policy, button]), screen])


def save_upload(value: object, folder: Path) -> Path | None:
    """Write an upload of ipywidgets 7 (a mapping) or 8 (a tuple) to `folder`; None if there is none."""
    files = [{"name": k, **v} for k, v in value.items()] if isinstance(value, dict) else list(value)
    if not files:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / Path(files[-1]["name"]).name
    path.write_bytes(bytes(files[-1]["content"]))
    return path


def _dub_uploads(model: LipFormer, video: object, audio: object, folder: Path, policy: str) -> None:
    from IPython.display import Video, display

    from .dubbing.dub import dub
    from .errors import LipFormerError
    from .files import KEPT

    # each in a folder of its own: a video and its sound may well have the same name
    picture, sound = save_upload(video, folder / "video"), save_upload(audio, folder / "speech")
    if picture is None or sound is None:
        print("choose a video (or a portrait) and a sound first")
        return
    out = folder / f"{picture.stem[:KEPT]}_says_{sound.stem[:KEPT]}.mp4"
    try:
        dub(model, picture, sound, out, policy=policy)
    except LipFormerError as error:
        print(f"{type(error).__name__}: {error}")
        return
    display(Video(str(out), embed=True))
