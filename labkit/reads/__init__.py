"""Further ways to read: page by page, as a stream, or watching for changes."""
