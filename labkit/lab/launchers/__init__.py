"""What starts the servers of a lab: processes (`embedded`) or containers (`docker`)."""
