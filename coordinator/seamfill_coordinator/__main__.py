"""``python -m seamfill_coordinator`` is the command ``coordinator``."""

from seamfill.entry import run_program

__all__ = ["main"]


def main() -> None:
    """Run the command."""
    run_program("coordinator", "seamfill_coordinator.cli")


if __name__ == "__main__":
    main()
