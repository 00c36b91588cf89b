"""Reads from a Redis Cluster, whose slots may move."""
