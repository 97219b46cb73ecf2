"""The whole coordinator cluster in one thread and in virtual time: one seed is one run."""
