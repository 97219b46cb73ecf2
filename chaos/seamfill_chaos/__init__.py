"""Kills nodes, cuts networks, makes exchanges lie, and checks that nothing was lost."""
