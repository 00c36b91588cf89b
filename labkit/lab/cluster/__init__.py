"""Redis Cluster in a lab: nodes that are joined, looked at, and put right again."""
