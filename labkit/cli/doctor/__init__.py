"""`labkit doctor`: what labs can use on this machine, and what to do about the rest."""
