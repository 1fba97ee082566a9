"""Where the console script begins."""

from stand_in.main import main

__all__ = ["main"]
