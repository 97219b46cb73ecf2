"""Writers of stores, one file each; the reading half is in ``seamfill.sources``."""
