"""Views of a `ReadResult`: a picture, HTML for notebooks, the terminal, plain text."""
