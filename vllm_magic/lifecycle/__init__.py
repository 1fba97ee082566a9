"""One server's life from launch to proof, seen by one thread of its own.

::

    provisioning ─► monitor ─► release ─► Release
                     │   ▲ └─ force_kill, where the guards were killed
               events▼   │actions
                     state

The thread of the supervisor owns the guards' socket, the log follower, the HTTP client and the verifier. Other threads only
call `supervisor.Supervisor.stop`, which leaves a request and wakes the thread up. What is done about a request, a message
or a deadline is decided in `state`, a state machine without I/O. What others should know is told through notices, in
the supervisor's thread; `status` says what the state of the server is after each of them.
"""
