"""Which code made a corpus or a checkpoint: version, git revision where there is one, and a hash of the sources.

Not every source counts: a corpus is shaped by what prepares it, weights by model, training and what reads the data. A
README, the command line, evaluation or dubbing can change without anything made before being out of date.
"""

import hashlib
import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
READING = (
    *(f"data/prepared/{name}.py" for name in ("archive", "clips", "references", "prefetch")),
    *(f"data/audio/{name}.py" for name in ("mel", "speech")),
)
# what shapes each kind: files, and folders with all that is in them
SHAPING = {
    "data": ("timing.py", "data"),
    "codes": (
        "model/autoencoder.py",
        "model/codebook.py",
        *(f"training/{n}.py" for n in ("cache", "looks", "sampling")),
    ),
    "frames": ("timing.py", "speaker.py", "model", "data", "dubbing"),
    "weights": ("timing.py", "config.py", "presets.py", "checkpoint.py", "model", "training", *READING),
}
# in these folders, but behind the corpus that they read
BESIDE = tuple(f"data/prepared/{name}.py" for name in ("example", "preparation_report", "summary"))
# the file that says that something is finished: its kind, and an entry that no foreign file of that name has
MADE = {"manifest.json": ("data", "shards"), "model.json": ("weights", "config")}
UNKNOWN = "unknown"


def sources(kind: str, package: Path = PACKAGE) -> str:
    """SHA-256 of the sources in `package` that shape "data", "codes" (cached ones), "frames" (dubbed ones)
    or "weights", names and bytes."""
    digest = hashlib.sha256()
    for entry in SHAPING[kind]:
        path = package / entry
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            name = file.relative_to(package).as_posix()
            if file.suffix in (".py", ".safetensors") and name not in BESIDE:
                digest.update(name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def revision(package: Path = PACKAGE) -> dict[str, object]:
    """The git revision that the package belongs to, and whether the working tree differs from it; None outside of git.

    A package that is only installed within some other repository belongs to none.
    """

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(package), *arguments], capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    tracked = git("ls-files", "--error-unmatch", Path(__file__).name) is not None
    head = git("rev-parse", "HEAD") if tracked else None
    changes = git("status", "--porcelain") if head else None
    return {"revision": head, "dirty": None if changes is None else bool(changes)}


def made_by(kind: str, **more: object) -> dict[str, object]:
    """What a corpus or a checkpoint says of the code that makes it: version, revision, dirty, sources, and `more`."""
    from . import __version__

    return {"version": __version__, **revision(), "sources": sources(kind), **more}


def joined(earlier: Sequence[dict], now: dict) -> list[dict]:
    """All makers of something, in their order: those of the state that it went on from, and this one."""
    return [*earlier, *([] if now in earlier else [now])]


def makers(content: dict) -> list[dict]:
    """The makers that a header or manifest names; an unknown one where it was written before they were recorded."""
    unknown = {"version": content.get("version"), "revision": None, "dirty": None, "sources": UNKNOWN}
    return content.get("made_by") or [unknown]


def by_others(makers: Sequence[dict], kind: str) -> bool:
    """Whether something was made, or begun, by other sources than the present ones."""
    return any(maker["sources"] != sources(kind) for maker in makers)


def words(makers: Sequence[dict]) -> str:
    """Makers in words: revision, or version where there is none, and the beginning of the sources' hash."""
    return " and ".join(dict.fromkeys(map(_words, makers)))


def products(folder: Path) -> Iterator[tuple[str, str, list[dict]]]:
    """Every finished corpus and stage below a folder: (its path there, its kind, its makers)."""
    for path in sorted(p for name in MADE for p in folder.rglob(name)):
        kind, entry = MADE[path.name]
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and entry in content:
            yield path.parent.relative_to(folder).as_posix(), kind, makers(content)


def _words(maker: dict) -> str:
    named = f"revision {maker['revision'][:12]}" if maker["revision"] else f"version {maker['version'] or UNKNOWN}"
    changed = " with uncommitted changes" if maker["dirty"] else ""
    return f"{named}{changed}, sources {maker['sources'][:12]}"
