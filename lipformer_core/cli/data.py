"""Corpora: `prepare`."""

from pathlib import Path
from typing import Annotated

import typer

from ..data.corpora import CORPORA, printable
from ..errors import ConfigError
from .options import Preset, Progress, Settings, choice, configured, parse_settings

SOURCES = "SOURCE, by corpus:\n\n" + "\n\n".join(f"**{name}**: {corpus}" for name, corpus in CORPORA.items())
Corpus = choice("Corpus", *CORPORA)
Backend = choice("Backend", "local", "dask")


def prepare(
    out: Annotated[Path, typer.Option(help="Folder for the prepared corpus.")],
    source: Annotated[
        str | None, typer.Argument(help="Folder of the corpus, or CSV of a `list`; none for `synthetic`.")
    ] = None,
    corpus: Annotated[Corpus, typer.Option(help="What SOURCE is.")] = Corpus.folder,
    preset: Preset = "small",
    run: Annotated[
        Path | None,
        typer.Option("--for", metavar="RUN", help="A run that will read it, or `pretrained`: its settings are taken."),
    ] = None,
    settings: Settings = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes on this machine.")] = 1,
    backend: Annotated[Backend, typer.Option(help="This machine, or a Dask cluster.")] = Backend.local,
    scheduler: Annotated[str | None, typer.Option(help="Address of the Dask scheduler.")] = None,
    correct_offset: Annotated[
        bool | None, typer.Option("--correct-offset/--keep-offset", help="Move sound that is constantly early or late.")
    ] = None,
    progress: Progress = True,
) -> None:
    """Cut a corpus into aligned 25 frames/s face crops with mel spectra; continues where it stopped.

    OUT then holds shards, a manifest, and `report.csv`: a line a clip, kept, trimmed or dropped, and why.

    **Examples**

    `lipformer prepare --corpus synthetic --out data/synthetic`

    `lipformer prepare VIDEOS --corpus folder --out data/mine --workers 2 --set data.size=128`

    `lipformer prepare VIDEOS --out data/test --for runs/quick`

    `lipformer prepare list.csv --corpus list --out mine --set data.val_persons=[anna] --set data.test_persons=[ben]`

    `lipformer prepare LRS2 --corpus lrs2 --out /shared/lrs2 --backend dask --scheduler tcp://192.0.2.1:8786`
    """
    from ..data.prepared.prepare import prepare as run_prepare
    from ..data.prepared.summary import outcome

    if source is None and CORPORA[corpus.value].needs:
        raise ConfigError(f"no SOURCE: write lipformer prepare SOURCE --corpus {corpus.value} --out {out}")
    if run is None:
        config = configured(preset, settings)
    else:
        from ..checkpoint import config_of

        config = config_of(run).replace({"data.val_persons": (), "data.test_persons": ()})
        config = config.replace(parse_settings(settings))
    if correct_offset is not None:
        config = config.replace({"data.correct_offset": correct_offset})
    where = {"workers": workers, "backend": backend.value, "scheduler": scheduler}
    run_prepare(corpus=corpus.value, source=source, out=out, config=config, progress=progress, **where)
    typer.echo(f"prepared: {printable(str(out))}{outcome(out)}")
