"""A training in several processes of one CPU, for the tests."""

import json
import os
import socket
import subprocess
import sys

from lipformer_core.config import flat, preset

SECONDS = 100  # after which processes that wait for each other are ended


def train_in_processes(count, run, corpus, config, stage="codebook", first=""):
    """`lipformer train` in so many processes of one CPU, by gloo; `first` is Python that each runs before it."""
    known = dict(flat(preset("tiny").to_dict()))
    changed = {name: value for name, value in flat(config.to_dict()) if value != known[name]}
    settings = [text for name, value in changed.items() for text in ("--set", f"{name}={json.dumps(value)}")]
    start = f"{first}\nfrom lipformer_core.cli import main\nmain()"
    command = [sys.executable, "-c", start, "train", stage, "--preset", "tiny"]
    command += ["--data", str(corpus), "--run", str(run)]
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
