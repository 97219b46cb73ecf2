"""Fixtures that all tests share."""

from __future__ import annotations

from fixtures_questdb import mortal_questdb, questdb_environment, questdb_server, table_name

__all__ = ["mortal_questdb", "questdb_environment", "questdb_server", "table_name"]
