"""The keeper: one helper process a lab, which runs the servers, as processes or containers, and their proxies.

It stands between the lab's owner and everything the lab starts, so that all of it ends with the owner,
however the owner ends: when the pipe to the owner closes, or the owner is no longer its parent, the keeper
ends its servers, removes all that was theirs and exits. It has a session of its own, so that Jupyter's Interrupt
(a signal to the kernel's process group) does not reach it, and its own interpreter, so that a busy kernel
does not slow the proxies. It imports the standard library, psutil and labkit's faults only, so it starts in a blink;
a lab of containers has it load testcontainers later.
"""
