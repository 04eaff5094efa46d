"""An experiment that is a row of `lipformer` commands: each goes on where it stopped, so nothing is remembered here."""

import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from .experiment import RunError

WORK = "{work}"  # in a command: the run folder's `work`


def words(command: str, work: Path) -> list[str]:
    """What follows `lipformer` in a command, WORK replaced. RunError for a command of another program."""
    program, *arguments = shlex.split(command) or [""]
    if program != "lipformer":
        raise RunError(f"command {command!r}: an experiment runs `lipformer` commands alone")
    return [argument.replace(WORK, str(work)) for argument in arguments]


def execute(commands: Sequence[str], work: Path, say: Callable[[str], None] = print) -> None:
    """Run commands in their order, their output to this process's. RunError at the first that fails, naming it."""
    rows = [words(command, work) for command in commands]
    for number, arguments in enumerate(rows, start=1):
        label = f"[{number}/{len(rows)}] lipformer {shlex.join(arguments[:2])}"
        say(f"{label}: running")
        start = time.monotonic()
        done = subprocess.run([sys.executable, "-m", "lipformer_core.cli", *arguments], check=False)
        if done.returncode:
            raise RunError(
                f"{label}: exit code {done.returncode}; the whole command: lipformer {shlex.join(arguments)}"
            )
        say(f"{label}: done in {time.monotonic() - start:.0f} s")
