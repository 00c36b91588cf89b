"""Kernels that leave nothing on the machine, and what is asked of them at the end.

Jupyter chooses free TCP ports for a kernel, and closes them before the kernel opens them: a lab may take one in
between, and the kernel dies as it starts. These listen on unix sockets instead; on Linux abstract ones, which are no
files.
"""

from __future__ import annotations

import ast
import json
import sys
import tempfile
import uuid
from typing import Any

from jupyter_client.manager import AsyncKernelManager, KernelManager
from traitlets import default

from labkit.errors import LabkitError

__all__ = ["QUESTION", "AsyncSocketKernelManager", "SocketKernelManager", "answer"]

QUESTION = {"labkit": "__import__('labkit.notebook.probe', fromlist=['report']).report()"}
"""User expressions to ask a kernel for what its labs left."""


class _Sockets(KernelManager):
    """A `KernelManager` for kernels on unix sockets, which it removes when they end."""

    @default("transport")
    def _default_transport(self) -> str:
        return "ipc"

    @default("ip")
    def _default_ip(self) -> str:
        """The name of the sockets, to which Jupyter appends a number each."""
        where = "@" if sys.platform.startswith("linux") else f"{tempfile.gettempdir()}/"
        return f"{where}kernel-{uuid.uuid4().hex}"


class SocketKernelManager(_Sockets):
    """For code that blocks."""


class AsyncSocketKernelManager(_Sockets, AsyncKernelManager):
    """For code on an event loop."""


def answer(reply: dict[str, Any]) -> dict[str, list[str]]:
    """What is `left` of labs and which faults are `unfired`, from the kernel's reply to `QUESTION`."""
    told = reply["content"].get("user_expressions", {}).get("labkit", {})
    if told.get("status") != "ok":
        raise LabkitError(f"the kernel cannot tell what its labs left: {told.get('evalue', 'it does not answer')}")
    found: dict[str, list[str]] = json.loads(ast.literal_eval(told["data"]["text/plain"]))
    return found
