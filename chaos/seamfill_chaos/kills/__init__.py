"""Kill cycles: SIGKILL under load, start again, account for every operation."""
