"""Adapters that read: cache, storage, live. One file per outside thing."""
