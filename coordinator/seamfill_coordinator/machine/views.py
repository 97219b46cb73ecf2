"""Frozen answers about the machine's state, for readers. Never changes anything.

Owns the questions that operators, SDKs and workers may ask. Must not know HTTP. Every function is a
pure read of a ``LeaseMachine`` at its current ``rev`` and returns bodies of ``seamfill.protocol``.
"""
