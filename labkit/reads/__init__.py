"""Further ways to read: by pages, as a stream, again and again."""
