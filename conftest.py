"""What unit tests and notebooks share, whichever of them pytest is asked for."""

import os

import pytest

CELL_SECONDS = 1_800  # of a notebook's cell: some train for real


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
