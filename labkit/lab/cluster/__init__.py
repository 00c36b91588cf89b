"""Redis Cluster in a lab: nodes that are joined, observed and restored."""
