"""Runs seeds in processes of their own: one that crashes or hangs is told, and the others go on."""

from __future__ import annotations

import dataclasses
import gc
import os
import pickle
import select
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Child:
    """A process that was forked to do one thing, and what it writes."""

    def __init__(self, work: Callable[[Callable[[Any], None]], None]) -> None:
        reading, writing = os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reading)
            code = 1
            try:
                quiet = os.open(os.devnull, os.O_WRONLY)
                os.dup2(quiet, 2)
                work(lambda message: _write(writing, pickle.dumps(message)))
                code = 0
            finally:
                os._exit(code)
        os.close(writing)
        self.reading = reading
        self._left = b""
        self.heard = time.monotonic()

    def messages(self) -> Iterator[Any]:
        """What can be read now."""
        data = os.read(self.reading, 1 << 16)
        self.closed = not data
        self.heard = time.monotonic()
        self._left += data
        while len(self._left) >= 8:
            size = int.from_bytes(self._left[:8], "little")
            if len(self._left) < 8 + size:
                break
            message, self._left = self._left[8 : 8 + size], self._left[8 + size :]
            yield pickle.loads(message)

    def end(self, kill: bool = False) -> int:
        """Its exit status, negative for a signal."""
        if kill:
            os.kill(self.pid, signal.SIGKILL)
        os.close(self.reading)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _write(handle: int, data: bytes) -> None:
    data = len(data).to_bytes(8, "little") + data
    while data:
        data = data[os.write(handle, data) :]


def in_child(work: Callable[[], Any], seconds: float) -> tuple[str, Any]:
    """What came of it: "done" and the result, "crash" and the status, or "hang"."""
    child = Child(lambda send: send(work()))
    results: list[Any] = []
    end = time.monotonic() + seconds
    while True:
        ready, _, _ = select.select([child.reading], [], [], max(0, end - time.monotonic()))
        if not ready:
            child.end(kill=True)
            return "hang", None
        results.extend(child.messages())
        if child.closed:
            break
    status = child.end()
    return ("done", results[0]) if results and status == 0 else ("crash", status)


def exit_text(status: int) -> str:
    """SIGSEGV, or the exit code."""
    return signal.Signals(-status).name if status < 0 else f"exit code {status}"


@dataclasses.dataclass
class Seeds:
    """What is run."""

    first: int = 0
    count: int | None = None
    seconds: float | None = None  # in which new ones are started
    jobs: int = 1
    per_process: int = 400
    seconds_each: float = 60.0


@dataclasses.dataclass
class Lost:
    """A seed whose process ended, or did not."""

    seed: int
    first: int  # of the process
    kind: str  # crash, hang
    status: int


def run_seeds(
    seeds: Seeds,
    work: Callable[[int, Callable[[Any], None]], None],
    take: Callable[[int, Any], None],
    lost: Callable[[Lost], None],
    told: Callable[[float], None],
    prepare: Callable[[], None] = lambda: None,
) -> None:
    """Has ``work`` do each seed in a child, which ``prepare`` has begun.

    ``take`` is given what it sends, ``lost`` the seeds that it does not come back from, and
    ``told`` each minute the seconds since the beginning.
    """
    gc.collect()
    gc.freeze()
    begin = time.monotonic()
    following = seeds.first
    last = None if seeds.count is None else seeds.first + seeds.count
    # By handle: the seed it is at, its end, its first.
    workers: dict[int, tuple[Child, list[int]]] = {}
    pending: list[tuple[int, int]] = []

    def finished() -> bool:
        return seeds.seconds is not None and time.monotonic() - begin > seeds.seconds

    def in_worker(first: int, end: int, send: Callable[[Any], None]) -> None:
        prepare()
        for seed in range(first, end):
            send(("at", seed))
            work(seed, lambda message: send(("said", message)))

    def start() -> bool:
        nonlocal following
        if finished():
            return False
        if pending:
            first, end = pending.pop()
        else:
            first = following
            end = first + seeds.per_process
            end = end if last is None else min(end, last)
            following = end
        if first >= end:
            return False
        child = Child(lambda send: in_worker(first, end, send))
        workers[child.reading] = (child, [first, end, first])
        return True

    spoken = begin
    while True:
        while len(workers) < seeds.jobs and start():
            pass
        if not workers:
            break
        ready, _, _ = select.select(list(workers), [], [], 1.0)
        for handle in ready:
            child, place = workers[handle]
            for kind, message in child.messages():
                if kind == "at":
                    place[0] = message
                else:
                    take(place[0], message)
            if child.closed:
                del workers[handle]
                status = child.end()
                if status != 0:
                    lost(Lost(place[0], place[2], "crash", status))
                if status != 0 and place[0] + 1 < place[1]:
                    pending.append((place[0] + 1, place[1]))
        for handle, (child, place) in list(workers.items()):
            late = time.monotonic() - child.heard > seeds.seconds_each
            if late or finished():
                del workers[handle]
                child.end(kill=True)
            if late:
                lost(Lost(place[0], place[2], "hang", 0))
                pending.append((place[0] + 1, place[1]))
        if time.monotonic() - spoken > 60:
            spoken = time.monotonic()
            told(spoken - begin)
