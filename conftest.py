"""What unit tests and notebooks share, whichever of them pytest is asked for."""

import os

import pytest

CELL_SECONDS = 1_800  # of a notebook's cell: some train for real
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # before anything imports torch: several processes share the cores
    os.environ.setdefault(
        "OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])))
    )
BEFORE = dict(os.environ)


def pytest_configure(config: pytest.Config) -> None:
    """Unit tests draw without a screen; notebook kernels draw into the notebook and show no progress bars."""
    import matplotlib

    matplotlib.use("Agg")
    if config.getoption("--nbval"):
        os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
        os.environ["TQDM_DISABLE"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Unit tests before notebooks, in whatever order they were asked for; cells get a time limit of their own."""
    items.sort(key=lambda item: item.path.suffix == ".ipynb")
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker(pytest.mark.timeout(CELL_SECONDS))


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """What a test leaves in the environment would reach the notebooks' kernels: one thread there doubles their time."""
    left = sorted(name for name in os.environ if name.endswith("_NUM_THREADS") and os.environ[name] != BEFORE.get(name))
    if left and (nextitem is None or nextitem.path.suffix == ".ipynb"):
        pytest.fail(f"the unit tests left {', '.join(left)} in the environment")
