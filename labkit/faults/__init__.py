"""What can go wrong with a shard: one class a fault."""

from labkit.faults.base import Fault, Target
from labkit.faults.container import Disconnect
from labkit.faults.network import BlackHole
from labkit.faults.process import Kill, Pause

__all__ = ["BlackHole", "Disconnect", "Fault", "Kill", "Pause", "Target"]
