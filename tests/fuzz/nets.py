"""Runs random small nets in the runtime and in eager, and compares what they answer.

python tests/fuzz/nets.py --count 10000
python tests/fuzz/nets.py --seconds 120 --jobs 2 --executor all --precision bf16

Each net is traced or scripted by stock torch, loaded with default options and called with inputs of
other values, sizes, layouts, ranks and dtypes. What eager computes must be computed and what it
refuses refused, with the values that net_check.py allows. Nets run in processes of their own: one
that crashes or hangs is a failure, and the others go on. A failing net is made as small as it gets,
and printed as a program. ``--seed`` of a failure, with ``--count 1``, runs it again. The exit code
is 1 where a net fails.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import gc
import inspect
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

import net_check
from net_check import Counts, Failure, NotANetError, check
from net_drawing import EXECUTORS, draw_net
from net_shrinking import shrink
from processes import Lost, Seeds, exit_text, in_child, run_seeds

if TYPE_CHECKING:
    from collections.abc import Callable

    from net import Net

NETS_PER_PROCESS = 400  # torch.jit keeps each type that it makes
SECONDS_PER_NET = 60.0


@dataclasses.dataclass
class Options:
    """What is run."""

    seed: int = 0
    count: int | None = None
    seconds: float | None = None
    precision: str = "fp32"
    executor: str = "prepared"
    jobs: int = 1
    shrunk: int = 10  # failures that are shrunk
    shrink_seconds: float = 60


@dataclasses.dataclass
class Found:
    """A seed whose net fails."""

    seed: int
    failure: Failure
    net: Net | None  # shrunk


@dataclasses.dataclass
class Result:
    """Of a run."""

    nets: int = 0
    not_nets: int = 0
    torch_crashes: int = 0  # in torch alone
    counts: Counts = dataclasses.field(default_factory=Counts)
    found: list[Found] = dataclasses.field(default_factory=list)


def outcome(net: Net) -> Failure | None:
    """What a net does, whatever that is; None too where it is no net."""

    def work(ours: bool) -> Failure | None:
        try:
            return check(net, ours=ours)
        except NotANetError:
            return None

    how, result = _in_child(lambda: work(True))
    if how == "done":
        failure: Failure | None = result
        return failure
    if _in_child(lambda: work(False))[0] != "done":
        return None  # torch's own
    return Failure(how, -1, exit_text(result) if how == "crash" else f"{SECONDS_PER_NET:.0f} s")


def _in_child(work: Callable[[], Any]) -> tuple[str, Any]:
    def alone() -> Any:
        torch.set_num_threads(1)
        return work()

    return in_child(alone, SECONDS_PER_NET)


def run(options: Options, say: Callable[[str], None] = print) -> Result:
    """Draws, runs and shrinks nets."""
    result = Result()
    begin = time.monotonic()
    run_seeds(
        Seeds(
            options.seed, options.count, options.seconds, options.jobs, NETS_PER_PROCESS,
            SECONDS_PER_NET,
        ),
        lambda seed, send: _work(seed, options, send),
        lambda seed, message: _take(seed, message, result, say),
        lambda lost: _lost(lost, options, result, say),
        lambda seconds: say(f"… {summary(result, seconds)}"),
        _prepare,
    )  # fmt: skip
    say(summary(result, time.monotonic() - begin))
    _shrink_all(result, options, say)
    return result


def summary(result: Result, seconds: float) -> str:
    """One line."""
    kinds = collections.Counter(found.failure.kind for found in result.found)
    failures = ", ".join(f"{kinds[kind]} {kind}" for kind in net_check.KINDS)
    return (
        f"{result.nets} nets, {result.counts.calls} calls, {result.counts.outputs} outputs "
        f"({result.counts.both_refused} calls refused by both, {result.not_nets} seeds without a "
        f"net, {result.torch_crashes} crashes of torch alone) in {seconds:.0f} s: {failures}"
    )


def _prepare() -> None:
    torch.set_num_threads(1)
    gc.disable()
    # torch.jit.script reads and parses the source of torch's own modules each time.
    setattr(inspect, "getsourcelines", functools.cache(inspect.getsourcelines))  # noqa: B010


def _work(seed: int, options: Options, send: Callable[[Any], None]) -> None:
    """In a child: the net of a seed."""
    if seed % 50 == 49:
        gc.collect()
    counts = Counts()
    try:
        net = draw_net(seed, options.executor, options.precision)
        failure = None if net is None else check(net, counts)
    except NotANetError:
        net = None
    send((net is not None, counts, failure if net is not None else None))


def _take(seed: int, message: Any, result: Result, say: Callable[[str], None]) -> None:
    is_net, counts, failure = message
    result.nets += is_net
    result.not_nets += not is_net
    for field in dataclasses.fields(Counts):
        value = getattr(result.counts, field.name) + getattr(counts, field.name)
        setattr(result.counts, field.name, value)
    if failure is not None:
        say(f"seed {seed}: {failure.kind}, call {failure.call}: {failure.detail}")
        result.found.append(Found(seed, failure, None))


def _lost(lost: Lost, options: Options, result: Result, say: Callable[[str], None]) -> None:
    seed = lost.seed
    drawn = _in_child(lambda: draw_net(seed, options.executor, options.precision))
    failure = outcome(drawn[1]) if drawn[0] == "done" and drawn[1] is not None else None
    result.nets += 1
    if failure is None or failure.kind not in ("crash", "hang"):
        alone = drawn[0] != "done" or failure is None
        if alone and drawn[0] == "done" and _survives(drawn[1]):
            text = f"only in a process with the nets from {lost.first} on"
            failure = Failure(lost.kind, -1, text)
        elif alone:
            result.torch_crashes += 1
            return
    assert failure is not None
    say(f"seed {seed}: {failure.kind}: {failure.detail}")
    result.found.append(Found(seed, failure, None))


def _survives(net: Net | None) -> bool:
    """Whether torch does, without the runtime."""

    def work() -> None:
        try:
            if net is not None:
                check(net, ours=False)
        except NotANetError:
            return

    return _in_child(work)[0] == "done"


def alike(failure: Failure) -> str:
    """What failures of one cause have in common."""
    detail = re.sub(r"[0-9.e+-]+|\[[^]]*\]", "#", failure.detail)
    return f"{failure.kind} {detail[:60]}"


def _shrink_all(result: Result, options: Options, say: Callable[[str], None]) -> None:
    """Those of one text seldom differ: three of each; of wrong values all."""
    seen: collections.Counter[str] = collections.Counter()
    shrunk = 0
    for found in result.found:
        key = alike(found.failure)
        seen[key] += 1
        if shrunk < options.shrunk and (found.failure.kind == "wrong" or seen[key] <= 3):
            shrunk += 1
            _shrink(found, options, say)


def _shrink(found: Found, options: Options, say: Callable[[str], None]) -> None:
    how, net = _in_child(lambda: draw_net(found.seed, options.executor, options.precision))
    if how != "done" or net is None:
        return
    kind = found.failure.kind

    def fails(candidate: Net) -> bool:
        failure = outcome(candidate)
        if failure is None or failure.kind != kind:
            return False
        return kind in ("wrong", "crash", "hang") or alike(failure) == alike(found.failure)

    def values(candidate: Net) -> list[dict[str, str]]:
        how, made = _in_child(lambda: net_check.values(candidate))
        return made if how == "done" else [{} for _ in candidate.calls]

    found.net = shrink(net, fails, values, options.shrink_seconds)
    last = outcome(found.net)
    say(f"\n# seed {found.seed}: {kind}: {found.failure.detail}")
    if last is not None:
        say(f"# shrunk: call {last.call}: {last.detail}")
    say(found.net.reproduction())


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, help="of the first net; default: by the clock")
    parser.add_argument("--count", type=int, help="nets; default 1000, or until --seconds")
    parser.add_argument("--seconds", type=float, help="how long new nets are drawn")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument(
        "--executor", choices=(*EXECUTORS, "all"), default="prepared",
        help='"all": one of them for each net',
    )  # fmt: skip
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--shrink", type=int, default=10, help="failures that are made small")
    parser.add_argument("--shrink-seconds", type=float, default=60, help="for each of them")
    given = parser.parse_args(arguments)
    seed = int(time.time()) * 1000 if given.seed is None else given.seed
    count = 1000 if given.count is None and given.seconds is None else given.count
    options = Options(
        seed, count, given.seconds, given.precision, given.executor, given.jobs, given.shrink,
        given.shrink_seconds,
    )  # fmt: skip
    print(f"nets of seeds {seed} on, executor {given.executor}, {given.precision}", flush=True)
    result = run(options, lambda text: print(text, flush=True))
    return 1 if result.found else 0


if __name__ == "__main__":
    sys.exit(main())
