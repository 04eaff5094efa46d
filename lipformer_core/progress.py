"""tqdm's bar, silent where TQDM_DISABLE is set: tests and committed notebooks show none.

tqdm reads that variable itself, but its notebook bar does not.
"""

import os
from collections.abc import Iterable


def tqdm(iterable: Iterable | None = None, *, disable: bool = False, **options: object) -> Iterable:
    """`tqdm.auto.tqdm` with the same options."""
    from tqdm.auto import tqdm as bar

    return bar(iterable, disable=disable or bool(os.environ.get("TQDM_DISABLE")), **options)
