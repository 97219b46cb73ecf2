"""``python -m seamfill`` is the command ``seamfill``."""

from seamfill.entry import run_program

__all__ = ["main"]


def main() -> None:
    """Run the command."""
    run_program("seamfill", "seamfill.cli")


if __name__ == "__main__":
    main()
