"""The proxy in front of each server, in the keeper's process."""
