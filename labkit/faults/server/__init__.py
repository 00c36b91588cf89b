"""Faults inside the server: it runs and answers, but cannot or will not do what it is asked."""
