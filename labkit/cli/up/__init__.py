"""`labkit up`: a lab that runs until it is stopped, and a topology file that tells where it is; see `session`."""
