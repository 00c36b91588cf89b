"""Ways to look at a `ReadResult`: a picture, HTML for notebooks, the terminal, plain text."""
