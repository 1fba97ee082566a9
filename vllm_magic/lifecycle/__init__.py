"""One server's life from launch to proof, seen by one thread of its own.

::

    provisioning ─► monitor ─► release ─► Release
                       └─ force_kill, where the guards were killed

The thread owns the guard's socket, the log follower, the HTTP client and the verifier. Others only call
`supervisor.Life.stop`, which leaves a request and wakes the thread up. What happens is told through events, in this
thread; `state.Lifecycle` makes its states of them.
"""
