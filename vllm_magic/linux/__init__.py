"""Linux interfaces: processes, sessions, pidfds, shared memory, sockets, and files.

These modules import only the standard library, since the guards use them with ``python -I -S``.
"""
