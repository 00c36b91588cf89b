"""A pytest plugin: notebooks' kernels listen on unix sockets.

Jupyter finds free TCP ports for a kernel and lets go of them before the kernel binds them: whoever else takes ports at
random, as labs do, may get one first, and the kernel dies at its start.
"""

from __future__ import annotations

import tempfile
import uuid

import nbval.kernel
import pytest
from jupyter_client.manager import KernelManager
from traitlets import default


class SocketKernelManager(KernelManager):
    """Starts kernels on unix sockets, and removes those afterwards."""

    @default("transport")
    def _default_transport(self) -> str:
        return "ipc"

    @default("ip")
    def _default_ip(self) -> str:
        """The sockets' path, to which Jupyter adds their numbers."""
        return f"{tempfile.gettempdir()}/kernel-{uuid.uuid4().hex}"


def pytest_configure(config: pytest.Config) -> None:
    """nbval takes the class by this name, and no options."""
    nbval.kernel.KernelManager = SocketKernelManager
