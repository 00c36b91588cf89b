"""Faults of the server itself: it runs and answers, and yet cannot or will not do what it is asked."""
