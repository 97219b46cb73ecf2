"""Checkers: what a run of the cluster must have been, whatever faults it met.

Each checker owns one promise, takes evidence and returns violations as values; none raises for what
it was made to find. They know nothing of how the evidence was got: simulation, real processes and
soaks use the same ones. ``chaos/DESIGN.md`` says what each proves and what it can not see.
"""
