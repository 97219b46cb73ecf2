"""The packaged presets: data files only, read through ``importlib.resources``."""
