"""Any corpus into the one prepared form (see `clips`): tracked, gated, aligned, cropped, with log-mel, split by person.

Each source becomes a part file of its own, written atomically; an interrupted run continues with the sources that have
none. When all are there, the parts are joined into tar shards and the manifest appears last. Which process did what, in
which order, and after how many interruptions leaves no trace in shards and manifest.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path

from ... import provenance
from ...config import Config
from ...errors import ConfigError, DataError
from ...files import is_unchanged, remove_unfinished, write_json
from ..corpora import CORPORA, ClipSource, list_sources, printable, split_rule
from .clips import FORMAT, MANIFEST, PreparedCorpus
from .extraction import TRACKER_PACKAGES, part_name, prepare_source, source_state, tracker_name
from .preparation_report import write_report
from .shards import join, remove_folder, writing

BACKENDS = ("local", "dask")
SHARD_BYTES = 256 * 2**20  # of the largest shard


def prepare(
    corpus: str,
    source: str | Path | None,
    out: Path | str,
    config: Config,
    workers: int = 2,
    progress: bool = True,
    backend: str = "local",
    scheduler: str | None = None,
) -> PreparedCorpus:
    """Prepare a corpus into the folder `out`, or return it at once if it is there with the same settings.

    corpus, source : as in `corpora.list_sources`
    workers : local processes
    backend : "local", or "dask": the workers of the Dask cluster whose scheduler listens at `scheduler`; `source` and
        `out` must be on a file system that all of them share
    raises DataError for a corpus without a usable clip, if `out` holds a corpus made with other settings or from other
        clips, if another run is at work on it, or if it cannot be written; WeightsMissing without a landmark network
    """
    out = Path(out)
    settings = _settings(corpus, source, config)
    sources = _listed(corpus, source, config, out)
    parts = out / "parts"
    if (out / MANIFEST).is_file():
        done = _finished(out, settings, sources, source)
        remove_folder(parts)  # of a run that was killed right after it had finished
        return done
    with writing(out):
        parts.mkdir(parents=True, exist_ok=True)
        with _alone(parts):
            remove_unfinished(out)
            versions = _versions(sources)
            makers = _check_unfinished(parts / "settings.json", settings | {"versions": versions}, out)
            try:
                rows = _run(sources, parts, config, progress, _workers(workers, backend, scheduler))
            except BaseException:
                remove_unfinished(parts)  # of workers that were stopped because another one failed
                raise
            facts = {"settings": settings, "versions": versions, "made_by": makers, "crop_size": config.data.size}
            facts |= {"split_rule": split_rule(corpus, sources, config.data), "sources": _fingerprint(sources)}
            _finish(rows, facts, source, parts, out)
        remove_folder(parts)
    return PreparedCorpus(out)


def prepare_for_training(
    corpus: str, source: str | Path | None, out: Path, config: Config, synthetic_too: bool = False, **options: object
) -> tuple[PreparedCorpus, list[Path]]:
    """Prepare a corpus into `out` and, if asked for, the embedded one beside it: (the corpus, all folders to train on).

    options : as `prepare`'s
    """
    data, folders = prepare(corpus, source, out, config, **options), [out]
    if synthetic_too and corpus != "synthetic":
        folders.append(out.with_name(f"{out.name}_synthetic"))
        prepare("synthetic", None, folders[1], config.replace(data={"val_persons": (), "test_persons": ()}), **options)
    return data, folders


def _run(
    sources: list[ClipSource], parts: Path, config: Config, progress: bool, workers: AbstractContextManager[dict]
) -> list[dict]:
    """Prepare every source that has no row yet, or whose file has changed since; returns the rows of all."""
    from joblib import Parallel, delayed

    from ...progress import tqdm

    for left in parts.glob("scratch-*"):
        remove_folder(left)
    todo = [s for s in sources if not _is_done(s, parts)]
    with workers as options:
        jobs = Parallel(return_as="generator_unordered", **options)(
            delayed(prepare_source)(s, parts, config) for s in todo
        )
        bar = tqdm(jobs, total=len(todo), desc="prepare", unit="clip", disable=not progress, smoothing=0.1)
        kept, dropped, video = 0, 0, 0.0
        for row in bar:
            kept, dropped = kept + bool(row["clips"]), dropped + (not row["clips"])
            video += row["video_seconds"]
            bar.set_postfix(kept=kept, dropped=dropped, video=f"{video / 60:.1f} min", refresh=False)
    return [json.loads((parts / f"{part_name(s.clip_id)}.json").read_text()) for s in sources]


def _finish(rows: list[dict], facts: dict, source: str | Path | None, parts: Path, out: Path) -> None:
    kept = [(part_name(row["clip_id"]), clip) for row in rows for clip in row["clips"]]
    write_report(out, rows)
    if not kept:
        reasons = "; ".join(f"{row['clip_id']}: {row['reason']}" for row in rows[:3])
        raise DataError(f"not one of {len(rows)} clips could be used ({reasons} …); {out} holds the whole report")
    infos, shards = join(kept, parts, out, SHARD_BYTES)
    manifest = {
        "format": FORMAT,
        **facts,
        "hash": hashlib.sha256("".join(shards.values()).encode()).hexdigest(),
        "files": {_below(path, source): state for row in rows for path, state in row["files"].items()},
        "shards": shards,
        "clips": [asdict(info) for info in infos],
        "dropped": [{k: row[k] for k in ("clip_id", "reason")} for row in rows if not row["clips"]],
        "trimmed": [{k: row[k] for k in ("clip_id", "trimmed")} for row in rows if row["clips"] and row["trimmed"]],
    }
    write_json(out / MANIFEST, manifest)


def _settings(corpus: str, source: str | Path | None, config: Config) -> dict:
    """What changes what is written: another value of one of them is another corpus."""
    settings = config.to_dict()["data"]
    for irrelevant in ("quality_gate", "correct_offset") if corpus == "synthetic" else ("synthetic",):
        del settings[irrelevant]
    settings["speech_encoder"] = config.audio.speech_encoder
    return settings | {"corpus": corpus, "source": printable(str(Path(source).resolve())) if source else None}


def _listed(corpus: str, source: str | Path | None, config: Config, out: Path) -> list[ClipSource] | None:
    """The corpus's sources; None if its source is gone but what was made of it is there."""
    gone = source is not None and not Path(source).exists()
    if gone and corpus in CORPORA and (out / MANIFEST).is_file():
        return None
    return list_sources(corpus, source, config.data)


def _fingerprint(sources: list[ClipSource]) -> str:
    rows = [[s.clip_id, s.person, s.split, *s.stretch] for s in sources if not s.foreign]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _finished(out: Path, settings: dict, sources: list[ClipSource] | None, source: str | Path | None) -> PreparedCorpus:
    done = PreparedCorpus(out)
    _same(done.manifest["settings"], settings, f"{out} holds a corpus")
    if sources is None:
        return done
    then = done.manifest.get("files")  # of before they were recorded: None
    changed = [] if then is None else _changed(then, {_below(p, source): p for s in sources for p in s.files})
    if changed or done.manifest["sources"] != _fingerprint(sources):
        named = f" ({', '.join(changed[:3])}{' …' if len(changed) > 3 else ''} changed since)" if changed else ""
        raise DataError(
            f"{out} was prepared when {settings['source']} held other clips{named}; choose another folder, or remove it"
        )
    return done


def _changed(then: dict[str, list], now: dict[str, str]) -> list[str]:
    """Names of the files that have come, gone or changed. then : name to `files.state_of`; now : name to path"""
    same = {name for name in then.keys() & now.keys() if is_unchanged(now[name], then[name])}
    return sorted((then.keys() | now.keys()) - same)


def _below(path: str, source: str | Path) -> str:
    """A file's name in the manifest: its path as seen from the corpus's source."""
    root = Path(source) if Path(source).is_dir() else Path(source).parent
    return printable(Path(os.path.relpath(path, root)).as_posix())


def _check_unfinished(path: Path, settings: dict, out: Path) -> list[dict]:
    """Note what an unfinished corpus is made with, and by whom: returns all its makers, as of `provenance.joined`."""
    makers = []
    if path.is_file():
        old = json.loads(path.read_text())
        makers = provenance.makers(old)
        versions = settings["versions"]
        if old["versions"].get("tracker") == "none":  # no picture was looked at then
            versions = {name: versions.get(name) for name in old["versions"] if name != "tracker"}
        _same(
            {k: v for k, v in (old | old["versions"]).items() if k in settings | versions},
            settings | versions,
            f"{out} holds an unfinished corpus",
        )
    makers = provenance.joined(makers, provenance.made_by("data"))
    write_json(path, settings | {"made_by": makers})
    return makers


def _same(old: dict, new: dict, what: str) -> None:
    names = [k for k in sorted({*old, *new} - {"versions"}) if old.get(k) != new.get(k)]
    if names:
        difference = ", ".join(f"{k}: {old.get(k)} there, {new.get(k)} asked" for k in names)
        raise DataError(f"{what} made with other settings ({difference}); choose another folder")


def _versions(sources: list[ClipSource]) -> dict[str, str]:
    """Versions of all that decides about the bytes."""
    from importlib.metadata import PackageNotFoundError, version

    from ... import __version__

    packages = ["numpy", "scipy", "opencv-python"]
    filmed = any(not s.synthetic and not s.missing for s in sources)
    tracker = tracker_name() if filmed else "none"
    found = {"lipformer": __version__, "tracker": tracker}
    for name in packages + (["av", *TRACKER_PACKAGES[tracker]] if filmed else []):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _is_done(source: ClipSource, parts: Path) -> bool:
    path = parts / f"{part_name(source.clip_id)}.json"
    row = json.loads(path.read_text()) if path.is_file() else {}
    return "files" in row and row["state"] == source_state(source)


@contextmanager
def _alone(parts: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system frees when this process ends, however it ends."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(parts / "lock", timeout=0):
            yield
    except Timeout as error:
        raise DataError(f"{parts.parent}: another run is preparing into this folder; wait for it") from error


@contextmanager
def _workers(workers: int, backend: str, scheduler: str | None) -> Iterator[dict]:
    """joblib's options; a cluster is at work as long as the block lasts."""
    if backend == "local":
        yield {"n_jobs": workers}
        return
    if backend not in BACKENDS:
        raise ConfigError(f"backend: {backend!r} is none of {', '.join(map(repr, BACKENDS))}")
    if not scheduler:
        raise ConfigError("backend dask: name the cluster's scheduler, such as tcp://192.0.2.1:8786")
    import joblib

    try:
        from distributed import Client
    except ImportError as error:
        raise ConfigError("backend dask needs dask and distributed: pip install 'lipformer-core[scale]'") from error
    try:
        client = Client(scheduler, timeout=60, set_as_default=True)
    except (OSError, ValueError) as error:
        raise ConfigError(f"scheduler {scheduler}: no Dask scheduler answers there ({error})") from error
    with client, joblib.parallel_config(backend="dask"):
        yield {}
