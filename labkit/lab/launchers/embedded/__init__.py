"""The embedded launcher: real server processes on this machine, with neither Docker nor root."""
