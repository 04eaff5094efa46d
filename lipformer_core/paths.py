"""The one place that decides where notebooks work."""

import os
from pathlib import Path

WORK_VARIABLE = "LIPFORMER_WORK"


def work_folder(work: str | Path = "", preset: str = "quick") -> Path:
    """Folder of a notebook's corpus (`data`), checkpoints (`run`) and products, made if it is not there.

    work : the folder itself; empty: what the environment variable LIPFORMER_WORK names, else `runs/<preset>` beside
        the notebooks' folder (or in the current folder, where that is not `notebooks`)
    """
    named = str(work) or os.environ.get(WORK_VARIABLE, "")
    here = Path.cwd()
    folder = Path(named) if named else (here.parent if here.name == "notebooks" else here) / "runs" / preset
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()
