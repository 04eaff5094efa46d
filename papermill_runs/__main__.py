"""`python -m papermill_runs NAME`: run an experiment from data to report."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from lipformer_core.errors import LipFormerError

from .experiment import available


def main(
    name: Annotated[str | None, typer.Argument(help="An experiment, or the path of a YAML; none lists them.")] = None,
    force: Annotated[bool, typer.Option(help="Begin anew: data and weights of the run, and every notebook.")] = False,
    out: Annotated[Path | None, typer.Option(help="Run folder; papermill_runs/NAME otherwise.")] = None,
) -> None:
    """Execute an experiment's notebooks in order, skip what is finished, write results.json and report.html.

    Exit code 2 for an experiment that cannot be run as written, 1 for a notebook that failed.
    """
    if name is None:
        typer.echo("experiments: " + ", ".join(available()))
        return
    from .runner import NotebookFailed, run  # torch and papermill take seconds to import

    try:
        run(name, out=out, force=force, say=lambda line: print(line, flush=True))
    except NotebookFailed as error:
        print(f"failed: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    except LipFormerError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from error


if __name__ == "__main__":
    typer.run(main)
