"""The same servers on a Ray cluster, each as a Ray job.

::

    kernel ─ guards ─ agent ──── Ray's job API ───► on_node ─ guards ─ vllm serve
                      (here)                        (the job, on a node)

The `agent` is to the guards of this machine what `vllm serve` is otherwise: their leader. It submits the job, copies the
job's log to its own output, forwards a port of the loopback interface to the server, renews the lease, and has the job stopped
on SIGTERM. On the node `vllm_magic.on_node` is to vLLM what a kernel is: it starts the server with guards of its own, and
has it released when it is told to, or when nobody renews the lease. So no way to die, on either side, leaves anything.

Of Ray only the HTTP API of a cluster's head is used here (https://docs.ray.io, "Ray Jobs REST API"): a kernel needs no Ray.
"""
