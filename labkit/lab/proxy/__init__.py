"""The proxy before each server, in the keeper's process."""
