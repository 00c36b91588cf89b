"""Faults of the network between a client and a shard, applied by the proxy in front of the shard.

Names, fields and units are Toxiproxy's (https://github.com/Shopify/toxiproxy, "Toxics") where it has the fault.
"""
