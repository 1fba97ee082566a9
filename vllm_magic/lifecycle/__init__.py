"""One server's life from its launch to the proof of its release, followed by one thread.

::

    provisioning ─► monitor ─► release ─► Release
                     │   ▲ └─ force_kill, where the guards were killed
               events▼   │actions
                     state

The supervisor's thread owns the guards' socket, the log follower, the HTTP client and the verifier. Other threads only call
`supervisor.Supervisor.stop`, which queues a request and wakes the thread. `state`, a state machine without I/O, decides
what is done about a request, a message or a deadline. The thread reports changes as notices; `status` computes the state
of the server after each notice.
"""
