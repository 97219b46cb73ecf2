"""The packaged presets: data files only (presets.yaml, exchanges.yaml), read through importlib.resources."""
