"""The pure core. One door: ``LeaseMachine.apply``. See ``coordinator/DESIGN.md``."""
