"""The command line: opens every door of the package and knows nothing itself.

Heavy libraries are imported inside the commands, so that `lipformer --help` answers at once.
"""

import errno
import os
import signal
import sys
from typing import Annotated

import typer
import typer.core
from rich.console import Console

from .. import __version__
from ..errors import LipFormerError
from .data import SOURCES, prepare
from .dubbing import dub, dub_batch
from .evaluation import compare, evaluate
from .machine import bench, fetch, info
from .training import personalise, train

# What the system says where a user can help: full disks, read-only folders, names that are too long, and the like.
MENDABLE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG),
}
# of the extra `train`, which who only dubs has not installed
TRAIN_MODULES = {"accelerate", "tensorboard", "torchvision", "joblib", "filelock", "matplotlib", "numba"}


class _Group(typer.core.TyperGroup):
    """Turns our typed errors, and the system's MENDABLE ones, into one message on stderr and exit code 2.

    Any other exception is a bug and is shown.
    """

    def invoke(self, ctx: typer.Context) -> object:
        try:
            return super().invoke(ctx)
        except (LipFormerError, OSError, ModuleNotFoundError) as error:
            text = str(error)
            if isinstance(error, ModuleNotFoundError):
                if (error.name or "").partition(".")[0] not in TRAIN_MODULES:
                    raise
                text = f"this command needs {error.name}: pip install 'lipformer-core[train]'"
            elif isinstance(error, OSError) and error.errno not in MENDABLE:
                raise
            console = Console(stderr=True, soft_wrap=True, highlight=False)
            console.print("error:", style="bold red", end=" ")
            console.print(text, markup=False)
            raise typer.Exit(2) from error


app = typer.Typer(cls=_Group, no_args_is_help=True, rich_markup_mode="markdown", pretty_exceptions_enable=False)
app.command(epilog=SOURCES)(prepare)
for command in (personalise, dub, dub_batch, evaluate, compare, bench, fetch, info):
    app.command()(command)
app.add_typer(train, name="train")


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
) -> None:
    """LipFormer: make a person in a video say what an audio track says."""
    if version:
        typer.echo(f"lipformer {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point of the console script."""
    _open_streams()
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup has it ignored
            signal.signal(number, _end)
    app()


def _open_streams() -> None:
    """Give closed standard streams the null device: a file opened later would get their number, and their output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))


def _end(number: int, _: object) -> None:
    """End as by an exception, so that what is unfinished is removed; another signal must not interrupt that."""
    for other in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM), signal.SIGINT):
        signal.signal(other, signal.SIG_IGN)
    raise SystemExit(128 + number)
