"""A small panel for notebooks: choose a video and a sound, dub, watch."""

from pathlib import Path

from .model.lipformer import LipFormer


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

    from .dubbing import dub
    from .errors import LipFormerError

    picture, sound = save_upload(video, folder), save_upload(audio, folder)
    if picture is None or sound is None:
        print("choose a video (or a portrait) and a sound first")
        return
    out = folder / f"{picture.stem}_says_{sound.stem}.mp4"
    try:
        dub(model, picture, sound, out, policy=policy)
    except LipFormerError as error:
        print(f"{type(error).__name__}: {error}")
        return
    display(Video(str(out), embed=True))
