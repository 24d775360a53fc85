"""Running a part of an export where it can be killed: in a fork of this process.

A fork needs no `__main__` guard, no importable module and no pickling of the model, so it works
from a script, from a notebook and with classes that were defined there. What the child changes
(patched functions, compiled classes, a module's state) is gone with it.

The child computes on one thread: after a fork, OpenMP's threads are missing, and an operator
that waits for them never returns.
"""

from __future__ import annotations

import gc
import os
import pickle
import select
import signal
import struct
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch

Emit = Callable[[Any], None]

_HEADER = struct.Struct("!Q")
_CHUNK = 1 << 20
_GONE = "the process ended"


@dataclass
class Outcome:
    """How a task ended.

    Attributes:
        messages: What the task emitted, in order; also of a task that was killed.
        failure: Why it did not finish; empty where it did.
        timed_out: Whether it was killed at its deadline.
        crashed: Whether its process ended by itself.
        seconds: Wall time.
    """

    messages: list[Any] = field(default_factory=list)
    failure: str = ""
    timed_out: bool = False
    crashed: bool = False
    seconds: float = 0.0


def run(
    task: Callable[[Emit], None],
    *,
    budget_s: float | None = None,
    on_message: Emit | None = None,
    fork: bool = True,
) -> Outcome:
    """Run a task in a child process, and kill it when it takes too long.

    Args:
        task: Gets a function that sends a picklable message to this process.
        budget_s: Seconds that may pass between two messages; None for no limit.
        on_message: Called in this process for each message as it comes.
        fork: False runs the task in this process, with no limit: an accelerator's context does
            not survive a fork.

    Returns:
        The messages, and how the task ended.
    """
    outcome = Outcome()
    start = time.monotonic()

    def receive(message: Any) -> None:
        outcome.messages.append(message)
        if on_message is not None:
            on_message(message)

    if fork and hasattr(os, "fork"):
        _run_forked(task, budget_s, receive, outcome)
    else:
        try:
            task(receive)
        except Exception as error:
            outcome.failure = f"{type(error).__name__}: {error}"
    outcome.seconds = time.monotonic() - start
    return outcome


def serves_interop() -> bool:
    """Whether this process has torch's inter-op threads, which a fork of it would wait for in vain.

    They are there once anything that calls torch.jit.fork was run.
    """
    names = Path("/proc/self/task").glob("*/comm")
    return any(_read(name).strip() == "PTThreadPool" for name in names)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:  # the thread has ended
        return ""


def _run_forked(
    task: Callable[[Emit], None], budget_s: float | None, receive: Emit, outcome: Outcome
) -> None:
    reader, writer = os.pipe()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    with warnings.catch_warnings():
        # Python 3.12 warns of forks beside threads; the child touches none of theirs.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os.close(reader)
        _child(task, writer)
    os.close(writer)
    ended = False
    try:
        ended = _listen(reader, budget_s, receive, outcome)
    finally:
        os.close(reader)
        if not ended:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if not ended and not outcome.timed_out:
        code = os.waitstatus_to_exitcode(status)
        cause = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        outcome.failure = f"{_GONE} ({cause})"
        outcome.crashed = True


def _listen(reader: int, budget_s: float | None, receive: Emit, outcome: Outcome) -> bool:
    """Receive until the child says that it is done; False where it was silent or died."""
    buffer = bytearray()
    deadline = None if budget_s is None else time.monotonic() + budget_s
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([reader], [], [], left)[0]:
            outcome.timed_out = True
            outcome.failure = f"no answer within {budget_s:.3g} s"
            return False
        data = os.read(reader, _CHUNK)
        if not data:
            # The last message is None, so nothing is missing only when that came.
            return False
        buffer += data
        while len(buffer) >= _HEADER.size:
            (size,) = _HEADER.unpack_from(buffer)
            if len(buffer) < _HEADER.size + size:
                break
            kind, message = pickle.loads(bytes(buffer[_HEADER.size : _HEADER.size + size]))
            del buffer[: _HEADER.size + size]
            if kind == "end":
                outcome.failure = message
                return True
            receive(message)
            deadline = None if budget_s is None else time.monotonic() + budget_s


def _child(task: Callable[[Emit], None], writer: int) -> NoReturn:
    def send(kind: str, message: Any) -> None:
        data = pickle.dumps((kind, message))
        view = memoryview(_HEADER.pack(len(data)) + data)
        while view:
            view = view[os.write(writer, view) :]

    status = 1
    try:
        gc.disable()  # the parent's garbage is not this process's to finalise
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, and kills
        sys.stdin = sys.stdout = sys.stderr = Path(os.devnull).open("r+", encoding="utf-8")  # noqa: SIM115
        torch.set_num_threads(1)
        failure = ""
        try:
            task(lambda message: send("message", message))
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            failure = f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
        send("end", failure)
        status = 0
    finally:
        os._exit(status)
