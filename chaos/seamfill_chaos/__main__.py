"""``python -m seamfill_chaos`` is the command ``seamfill-chaos``."""

from seamfill.entry import run_program

__all__ = ["main"]


def main() -> None:
    """Run the command."""
    run_program("seamfill-chaos", "seamfill_chaos.cli")


if __name__ == "__main__":
    main()
