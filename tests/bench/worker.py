"""One contestant in a process of its own: `python -m tests.bench.worker`, driven by lines on stdin.

The first line is the task. The answer to it comes once all is imported, all connections are open and each was used for
a few rows. Each further line, a number, is one measurement (or so many short reads); the answer has the seconds, the
peak of memory above what was resident before, and the proof that the rows were right, which is made off the clock.
"""

from __future__ import annotations

import ctypes
import gc
import json
import signal
import sys
import time
from dataclasses import asdict
from typing import Any

from tests.bench import memory
from tests.bench.task import Ready, Task, contestants

__all__ = ["die_with_parent", "main"]

PR_SET_PDEATHSIG = 1
"""linux/prctl.h: the signal a process gets when its parent dies."""


def main() -> None:
    die_with_parent()
    task = Task.from_json(sys.stdin.readline())
    try:
        with contestants(task.part)[task.contestant](task) as ready:
            _say(ready=True)
            for line in sys.stdin:
                _say(**_measured(ready, int(line), task))
    except ModuleNotFoundError as error:
        _say(absent=(error.name or "").split(".")[0])
    except Exception as error:
        _say(failed=f"{type(error).__name__}: {' '.join(str(error).split())}"[:300])


def _measured(ready: Ready, count: int, task: Task) -> dict[str, Any]:
    """The clock is on the read and nothing else; garbage of before is collected before it starts."""
    gc.collect()
    memory.forget_peak()
    idle = memory.resident()
    if ready.burst is not None:
        seconds, answer = ready.burst(count)
    else:
        assert ready.read is not None
        began = time.perf_counter()
        answer = ready.read()
        seconds = [time.perf_counter() - began]
    most = memory.peak()
    figures = dict(ready.figures(answer))
    proof = ready.prove(answer)
    if proof is not None and not proof.is_of(task.rows):
        return {"failed": f"wrong rows: {proof}"}
    return {
        "seconds": seconds,
        "peak": max(0, most - idle),
        "figures": figures,
        "proof": None if proof is None else asdict(proof),
    }


def _say(**words: Any) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


def die_with_parent() -> None:
    """In a long read nobody looks at stdin: on Linux the kernel ends an orphan all the same."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
