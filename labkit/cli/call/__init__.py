"""One Redis command, cluster-aware: sent to the node that owns its key, or to every node concurrently.

It knows no lab and no rows, and loads neither pandas nor numpy: a command line should answer before they would load.
"""
