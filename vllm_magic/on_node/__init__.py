"""The jobs on a node of a Ray cluster: the job of a server, and helper jobs that report what is on the node."""
