"""``python -m seamfill_worker`` is the command ``seamfill-worker``."""

from seamfill.entry import run_program

__all__ = ["main"]


def main() -> None:
    """Run the command."""
    run_program("seamfill-worker", "seamfill_worker.cli")


if __name__ == "__main__":
    main()
