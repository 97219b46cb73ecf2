"""Flapping links: cut and healed every moment, for as long as one likes."""
