"""What runs on a node of a Ray cluster: the job of a server, and small ones that say what is on the node."""
