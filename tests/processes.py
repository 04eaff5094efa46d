"""A training in several processes of one CPU, for the tests."""

import os
import socket
import subprocess
import sys

from lipformer_core.config import preset

SECONDS = 100  # after which processes that wait for each other are ended


def train_in_processes(count, run, corpus, config, stage="codebook", first=""):
    """`lipformer train` in so many processes of one CPU, by gloo; `first` is Python that each runs before it."""
    changed = {k: v for k, v in config.to_dict().items() if v != getattr(preset("quick"), k)}
    settings = [text for k, v in changed.items() for text in ("--set", f"{k}={list(v) if type(v) is tuple else v}")]
    start = f"{first}\nfrom lipformer_core.cli import main\nmain()"
    command = [sys.executable, "-c", start, "train", stage, "--data", str(corpus), "--run", str(run)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"WORLD_SIZE": f"{count}", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
    world |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [*command, "--quiet", *settings],
            env=os.environ | world | {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        for process in started:
            _, errors = process.communicate(timeout=SECONDS)
            assert process.returncode == 0, errors[-3000:]
    finally:
        for process in started:
            process.kill()
