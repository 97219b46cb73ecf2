"""The wire protocol: every request and answer body of the coordinator's HTTP API, defined once.

Must not know HTTP, sockets or the machine. Pure values; see ``values`` for the leaves.
"""
