"""What servers are started by."""
