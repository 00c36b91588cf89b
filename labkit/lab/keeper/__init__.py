"""The keeper: one process per lab, which runs the servers (processes or containers) and their proxies.

It stands between the lab's owner and everything the lab starts, so that all of it ends with the owner, however the
owner ends: when the owner's end of the socket closes, the keeper ends its servers, removes everything that was theirs
and exits. `reaper.py`, its parent, does the rest if the keeper itself is killed. It has a separate session, so that
Jupyter's Interrupt (a signal to the kernel's process group) does not reach it, and a separate interpreter, so that a
busy kernel does not slow the proxies. It imports the standard library, psutil and labkit's faults only, so it starts
quickly; for a lab of containers it loads testcontainers later.
"""
