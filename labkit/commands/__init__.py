"""What the command line does for `labkit read` and `labkit serve`; `labkit/cli.py` has their options."""
