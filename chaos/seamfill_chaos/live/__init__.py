"""Real processes on this machine: started, watched, killed and checked."""
