"""The shell around the pure machine: the only place that knows pysyncobj."""
