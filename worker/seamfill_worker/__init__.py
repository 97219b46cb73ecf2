"""Stateless processes that claim leases, fetch, write, read back, and only then complete."""
