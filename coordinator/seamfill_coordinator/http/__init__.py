"""The coordinator's HTTP front door. ``app.build_app`` is its only entrance."""
