"""The docker launcher: one container a shard, started by testcontainers, on a private network."""
