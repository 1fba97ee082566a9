"""A server as users hold it, with its status, its requests and its stop, and one run of it for the packages above."""
