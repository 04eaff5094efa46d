"""Readers of corpus layouts: each lists the clips of one published layout as ClipSources.

Splits are by PERSON. Where a corpus has too few persons for that (one GRID speaker, somebody's own three clips)
they are by clip, the last ones by name held out, and the manifest says so.
"""

from dataclasses import dataclass
from pathlib import Path

from ..config import Config
from ..errors import DataError

VIDEO_ENDINGS = {".mp4", ".mkv", ".mov", ".avi", ".webm", ".mpg", ".mpeg", ".m4v", ".flv", ".ts"}
FEWEST_PERSONS = 5  # below this a split by person leaves too little to train on
HELD_OUT_CLIPS = 30  # of a person, at most, where the split is by clip
VALIDATION_CLIPS = 6


@dataclass(frozen=True)
class ClipSource:
    """A clip before preparation: a video file, or a person and clip number of the synthetic corpus."""

    clip_id: str
    person: str
    split: str
    path: str | None = None
    synthetic: tuple[int, int, int] | None = None  # person, clip, frames


def list_sources(corpus: str, source: str | Path | None, config: Config) -> list[ClipSource]:
    """All clips of a corpus in a fixed order.

    corpus : "synthetic" (source unused), "folder" or "grid" (source: a folder)
    raises DataError for an unknown corpus, a missing folder, or a folder without clips
    """
    if corpus == "synthetic":
        return _synthetic(config)
    if corpus not in ("folder", "grid"):
        raise DataError(f"corpus {corpus!r} is none of 'synthetic', 'folder', 'grid'")
    if source is None or not Path(source).is_dir():
        raise DataError(f"corpus {corpus!r} needs a folder as its source; {source} is none")
    found = sorted(
        p for p in Path(source).rglob("*") if p.suffix.lower() in VIDEO_ENDINGS and not p.name.startswith(".")
    )
    if not found:
        raise DataError(f"{source}: no video files ({', '.join(sorted(VIDEO_ENDINGS))}) in it")
    return _split([_named(p, Path(source), corpus) for p in found])


def split_rule(corpus: str, sources: list[ClipSource]) -> str:
    """How the splits were made, in words, for the manifest."""
    if corpus == "synthetic" or len({s.person for s in sources}) >= FEWEST_PERSONS:
        return "by person"
    return "by clip: fewer than 5 persons, the last clips by name are held out"


def _synthetic(config: Config) -> list[ClipSource]:
    counts = {"train": config.synthetic_train, "val": config.synthetic_val, "test": config.synthetic_test}
    sources, person = [], 0
    for split, count in counts.items():
        frames = config.synthetic_frames if split == "train" else config.synthetic_test_frames
        for _ in range(count):
            name = f"synthetic{person:05d}"
            sources.append(ClipSource(name, name, split, synthetic=(person, 0, frames)))
            person += 1
    return sources


def _named(path: Path, root: Path, corpus: str) -> ClipSource:
    relative = path.relative_to(root)
    clip_id = "_".join(relative.with_suffix("").parts).replace(".", "_").replace(" ", "_")
    # a speaker's (GRID) or person's own folder, else: one speaker's folder was given, or a person a file
    if len(relative.parts) > 1:
        person = relative.parts[0]
    else:
        person = root.name if corpus == "grid" else path.stem
    return ClipSource(clip_id, person, "train", str(path))


def _split(sources: list[ClipSource]) -> list[ClipSource]:
    persons = sorted({s.person for s in sources})
    if len(persons) >= FEWEST_PERSONS:
        tenth = max(1, len(persons) // 10)
        test, val = set(persons[-tenth:]), set(persons[-2 * tenth : -tenth])
        return [_into(s, "test" if s.person in test else "val" if s.person in val else "train") for s in sources]
    result = []
    for person in persons:
        own = [s for s in sources if s.person == person]
        n_test = min(HELD_OUT_CLIPS, len(own) // 3)
        n_val = min(VALIDATION_CLIPS, (len(own) - n_test) // 4)
        n_train = len(own) - n_test - n_val
        splits = ["train"] * n_train + ["val"] * n_val + ["test"] * n_test
        result += [_into(s, split) for s, split in zip(own, splits, strict=True)]
    return result


def _into(source: ClipSource, split: str) -> ClipSource:
    return ClipSource(source.clip_id, source.person, split, source.path, source.synthetic)
