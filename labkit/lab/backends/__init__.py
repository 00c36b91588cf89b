"""What is different between the kinds of servers."""
