"""``python -m seamfill_coordinator`` is the command ``coordinator``."""

from seamfill_coordinator.cli import main

if __name__ == "__main__":
    main()
