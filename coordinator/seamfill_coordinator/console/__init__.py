"""What operators see in a terminal."""
