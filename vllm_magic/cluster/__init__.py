"""Servers on a Ray cluster, each as a Ray job.

::

    kernel ─ guards ─ agent ──── Ray's job API ───► on_node ─ guards ─ vllm serve
                      (here)                        (the job, on a node)

On this machine, the guards start the `agent` as the leader, in place of `vllm serve`. The agent submits the job, copies the
job's log to its own output, forwards a port of the loopback interface to the server, renews the lease, and stops the job
on SIGTERM. On the node, `vllm_magic.on_node` takes the place of the kernel: it starts the server with guards of its own, and
releases the server when Ray asks the job to end, or when the lease is not renewed. So nothing is left if any process dies on
either side.

Only the HTTP API of a cluster's head is used (https://docs.ray.io, "Ray Jobs REST API"), so a kernel needs no Ray.
"""
