"""Redis Cluster, as one reads it: which node owns a slot, who says so, and what a redirection means."""
