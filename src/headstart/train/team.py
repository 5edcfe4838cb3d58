"""Several processes: the first one does the whole job, the others take part when a network is trained.

torchrun starts the same command everywhere and offers a small store of keys and values, through which
the first process tells the others what comes next: JSON, never code. What is large lies in the run
folder, which all machines must share.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

LONGEST = timedelta(days=30)
"""that the others wait for the next thing to do: looking at millions of images takes its time"""
JOIN, TRAIN, END = "join", "train", "end"


@dataclass(slots=True)
class Team:
    """This process's place among those that torchrun has started."""

    rank: int
    size: int
    store: TCPStore
    told: int = 0
    """things that were told or heard so far"""

    def tell(self, what: str, facts: Mapping[str, Any] | None = None) -> None:
        """Tell all others what comes next."""
        assert self.rank == 0
        self.store.set(_key(self.told), json.dumps({"what": what, **(facts or {})}))
        self.told += 1

    def listen(self) -> Iterator[dict[str, Any]]:
        """What the first process tells, until the end."""
        while True:
            self.store.wait([_key(self.told)], LONGEST)
            heard: dict[str, Any] = json.loads(self.store.get(_key(self.told)))
            self.told += 1
            if heard["what"] == END:
                return
            yield heard


_here: list[Team] = []


def team() -> Team | None:
    """The team of this process; None when it was not started by torchrun, or alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    if not _here:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        _here.append(Team(int(os.environ["RANK"]), size, store))
    return _here[0]


@contextlib.contextmanager
def leading() -> Iterator[None]:
    """The others wait for what this process tells them, and are told when there is nothing more."""
    here = team()
    try:
        yield
    finally:
        if here is not None and here.rank == 0:
            here.tell(END)


def joined(device: str, log_to: Path | None = None) -> Fabric:
    """Fabric over all processes of the team, or over this one alone; the leader calls the others."""
    from headstart.train.finetune import open_fabric

    here = team()
    if here is not None and here.rank == 0:
        here.tell(JOIN, {"device": device})
    return open_fabric(device, log_to, alone=here is None)


def beside() -> int:
    """Processes of the team on this machine: they share its processors."""
    return 1 if team() is None else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _key(count: int) -> str:
    return f"headstart/{count}"
