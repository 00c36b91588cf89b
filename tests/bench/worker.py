"""One contestant in a separate process: `python -m tests.bench.worker`, driven by lines on stdin.

The first line is the task, answered once everything is imported and all connections are open and were used for a few
rows. Each further line is a number and requests one measurement, or that many short reads; the answer has the seconds,
the peak memory above what was resident before, and the proof, made untimed, that the rows were right.
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
"""From linux/prctl.h: sets the signal that a process gets when its parent dies."""


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
    """Times only the read; earlier garbage is collected first."""
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
    """Has the kernel end this process with its parent (Linux only): during a long read nothing watches stdin."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
