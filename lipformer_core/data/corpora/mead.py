"""MEAD (Wang et al. 2020): M003/video/front/angry/level_1/001.mp4 with its sound in M003/audio/angry/level_1/001.m4a;
an actor, a view, an emotion, its strength, a sentence (https://github.com/uniBruce/Mead; an actor's archives are
video.tar and audio.tar).
"""

from pathlib import Path

from ...config import DataSettings
from .layout import ClipSource, files, name_of, unusable
from .splits import split

FRONT, OTHERS = "front", {"down", "top", "left_30", "left_60", "right_30", "right_60"}


def read(root: Path, settings: DataSettings) -> list[ClipSource]:
    """The front views of all actors, ordered by path; another view where `root` is its folder (M003/video/left_30).

    A sentence without a sound file of its own is listed all the same: some copies have the sound in the video. Sound
    whose video is not there is listed as missing, for actors of whom there are videos.
    """
    sources, actors = [], {}
    view = _view(root)
    for path in files(root, {".mp4"}):
        parts = path.absolute().parts
        if len(parts) < 6 or parts[-5] != "video" or not parts[-2].startswith("level_"):
            sources.append(unusable(name_of(path, root), path.stem, "not in <actor>/video/<view>/<emotion>/level_<n>/"))
        elif parts[-4] == view:
            actor = Path(*parts[:-5])
            sound = actor / "audio" / Path(*parts[-3:]).with_suffix(".m4a")
            audio = str(sound) if sound.is_file() else None
            actors.setdefault(actor, set()).add(sound)
            sources.append(ClipSource(name_of(path, root), parts[-6], "train", str(path), audio_path=audio))
    for actor, heard in actors.items():
        for sound in files(actor / "audio", {".m4a"}):
            if sound not in heard and sound.is_relative_to(root.absolute()):
                name = "/".join((actor.name, "video", view, *sound.with_suffix("").parts[-3:]))
                sources.append(unusable(name, actor.name, f"no video beside its sound {sound.relative_to(actor)}"))
    return split(sorted(sources, key=lambda s: s.clip_id))


def _view(root: Path) -> str:
    parts = root.absolute().parts
    return next((b for a, b in zip(parts, parts[1:], strict=False) if a == "video" and b in OTHERS), FRONT)
