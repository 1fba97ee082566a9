"""Provisioners: start a server on this machine, from a standby, or on a Ray cluster, or attach a running server."""
