"""The random twin: the same architecture with random weights, as a control.

What a stage knows about the classes comes in part from the architecture alone: pooling, edges of
random filters, colours. The twin, as its authors initialise it, shows how much. (BatchNorm
statistics of smooth random images instead of 0 and 1 made a weaker control: docs/log.md.)

Run as `python -m headstart.backbone.twin NAME SEED FILE`, in a process of its own: it needs torch.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from headstart.backbone.graph import TapGraph, cache_error, tap_graph
from headstart.errors import InternalError
from headstart.run import atomic_write
from headstart.settings import cache_dir

RANDOM = "random-"
"""how the file of a twin's weights begins"""
TIMEOUT_S = 600


def random_twin(graph: TapGraph, seed: int = 0) -> TapGraph:
    """A network's twin, at the same input size; from the cache, or made now in a child process.

    Raises:
        InternalError: it could not be made. MachineError: the cache could not be written.
    """
    path = cache_dir() / "graphs" / f"{RANDOM}{graph.name.replace('/', '_')}-{seed}.safetensors"
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent) as staging:
                fresh = Path(staging) / "twin.safetensors"
                _make_in_child(graph.name, seed, fresh)
                atomic_write(path, fresh.read_bytes())
        except OSError as cause:
            raise cache_error(cause, "Could not store the random twin", path.parent) from cause
    twin = tap_graph(graph.name, path, graph.preprocess.size_px, [])
    return replace(twin, preprocess=graph.preprocess)  # it looks as the network itself does


def write_twin(name: str, seed: int, path: Path) -> None:
    """Write a network as it is before any training."""
    import torch
    from safetensors.torch import save_file

    from headstart.backbone.load import config_of, create

    torch.manual_seed(seed)
    network = create(name, int(config_of(name).get("num_classes") or 1000))
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, str(path))


def _make_in_child(name: str, seed: int, path: Path) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        done = subprocess.run(
            [sys.executable, "-P", "-m", "headstart.backbone.twin", name, str(seed), str(path)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        if done.returncode == 0:
            return
        tail = " | ".join(done.stderr.strip().splitlines()[-3:])
        raise InternalError("The random twin could not be made", received=tail)
    raise InternalError("Making the random twin took too long", received=f"{TIMEOUT_S} s")


if __name__ == "__main__":
    write_twin(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
