"""Reading from a Redis Cluster, whose slots move."""
