"""One server's life from preparation to proof, seen by one thread of its own.

::

    preparation ─► attendance ─► proof ─► Release
                        └─ rescue, where the guards were killed

The thread owns the guard's socket, the log follower, the HTTP client and the witness. Others only call
`Life.stop`, which leaves a request and wakes the thread up. What happens is told through notices, in this
thread; `course.Course` makes its states of them.
"""

from vllm_magic.life.thread import Life

__all__ = ["Life"]
