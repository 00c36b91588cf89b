"""`labkit up`: a lab that stays, with a topology file that says where it is; see `session`."""
