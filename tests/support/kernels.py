"""A pytest plugin with which the kernels of notebooks listen on unix sockets.

Jupyter chooses free TCP ports for a kernel, and closes them before the kernel opens them. A lab of another test may
take one in between; then the kernel dies as it starts.
"""

from __future__ import annotations

import tempfile
import uuid

import nbval.kernel
import pytest
from jupyter_client.manager import KernelManager
from traitlets import default


class SocketKernelManager(KernelManager):
    """A `KernelManager` for kernels on unix sockets, which it removes when they end."""

    @default("transport")
    def _default_transport(self) -> str:
        return "ipc"

    @default("ip")
    def _default_ip(self) -> str:
        """The path of the sockets, to which Jupyter appends a number each."""
        return f"{tempfile.gettempdir()}/kernel-{uuid.uuid4().hex}"


def pytest_configure(config: pytest.Config) -> None:
    """Replaces nbval's manager, since nbval takes no options for it."""
    nbval.kernel.KernelManager = SocketKernelManager
