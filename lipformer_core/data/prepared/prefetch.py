"""What comes next, made in the background and in order: a training's batches, and each stage of a dubbing."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice, repeat, takewhile
from typing import Any, TypeVar

Item = TypeVar("Item")
Batch = TypeVar("Batch")
READERS = 8  # threads that decode pictures, where there are as many cores


def prefetched(
    make: Callable[[Item], Batch], numbers: Iterable[Item], threads: int = 1, ahead: int = 2
) -> Iterator[Batch]:
    """Yield `make(number)` for each number, in their order, while the next ones are made by threads.

    Decoding pictures and reading files let go of the interpreter, so threads are enough, and nothing is copied between
    processes. `make` must depend on its number alone (random numbers too) and touch no state that the step changes;
    what it raises is raised here, when its batch is due. `numbers` may be another `prefetched`, whose threads end with
    these: stages that work at the same time.

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
            if hasattr(todo, "close"):
                todo.close()


def taken_ahead(items: Iterator[Item], ahead: int = 2) -> Iterator[Item]:
    """Yield a generator's items while a thread takes the next ones from it; as `prefetched`, with one thread."""
    end: Any = object()
    with closing(items), closing(prefetched(lambda _: next(items, end), repeat(0), ahead=ahead)) as taken:
        yield from takewhile(lambda item: item is not end, taken)


def prefetched_by_processes(
    make: Callable[[int], Batch], numbers: Sequence[int], processes: int, ahead: int = 4
) -> Iterator[Batch]:
    """As `prefetched`, by torch's DataLoader: for a GPU that is faster than one thread can feed it.

    The processes are forked, so `make` must not touch a GPU. Tensors come back through shared memory, arrays copied.

    ahead : batches that each process holds ready at most
    """
    import cv2
    from torch.utils.data import DataLoader

    class Made:  # `make` as a data set
        def __getitem__(self, number: int) -> Batch:
            return make(number)

    def one_thread(_: int) -> None:
        cv2.setNumThreads(0)  # its threads do not survive a fork

    workers = {"num_workers": processes, "worker_init_fn": one_thread, "multiprocessing_context": "fork"}
    as_it_is = {"batch_size": None, "collate_fn": lambda item: item}
    yield from DataLoader(Made(), sampler=numbers, prefetch_factor=ahead, **as_it_is, **workers)
