"""Adapters to venues, one file each."""
