"""Faults of the network between a client and a shard; the proxy in front of the shard makes them.

Names, fields and units are Toxiproxy's (https://github.com/Shopify/toxiproxy, "Toxics"), where it has the fault.
"""
