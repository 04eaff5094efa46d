"""Batches made in the background, in order, so that a training step waits for none."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Batch = TypeVar("Batch")


def prefetched(
    make: Callable[[int], Batch], numbers: Iterable[int], threads: int = 1, ahead: int = 2
) -> Iterator[Batch]:
    """Yield `make(number)` for each number, in their order, while the next ones are made by threads.

    Decoding pictures and reading files let go of the interpreter, so threads are enough, and nothing is copied between
    processes. `make` must depend on its number alone (random numbers too) and touch no state that the step changes;
    what it raises is raised here, when its batch is due.

    ahead : batches that are held ready at most
    """
    todo = iter(numbers)
    with ThreadPoolExecutor(threads, thread_name_prefix="prefetch") as pool:
        waiting = deque(pool.submit(make, number) for number in islice(todo, ahead))
        try:
            while waiting:
                batch = waiting.popleft().result()
                waiting.extend(pool.submit(make, number) for number in islice(todo, 1))
                yield batch
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
