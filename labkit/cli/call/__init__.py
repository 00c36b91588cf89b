"""One Redis command, cluster-aware: to the node that owns its key, or to every node side by side.

It knows no lab and no rows, and loads neither pandas nor numpy: a command line should have answered before they have.
"""
