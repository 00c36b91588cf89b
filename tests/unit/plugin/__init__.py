"""Unit tests of the plugin for pytest: its marks, its pool, and that it disturbs nobody."""
