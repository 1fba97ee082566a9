"""What Linux says of processes: identity, sessions, descent, pidfds, shared memory, sockets.

Standard library only: the guard runs on these modules with ``python -I -S``.
"""
