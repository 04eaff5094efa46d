"""tqdm's bar, silent where TQDM_DISABLE is set (tests and committed notebooks show none) and where stderr is closed.

tqdm reads that variable itself, but its notebook bar does not.
"""

import os
import sys
from collections.abc import Iterable


def tqdm(iterable: Iterable | None = None, *, disable: bool = False, **options: object) -> Iterable:
    """`tqdm.auto.tqdm` with the same options."""
    from tqdm.auto import tqdm as bar

    return bar(iterable, disable=disable or bool(os.environ.get("TQDM_DISABLE")) or sys.stderr is None, **options)
