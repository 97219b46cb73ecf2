"""Fixtures that all tests share."""

from __future__ import annotations

from fixtures_questdb import mortal_questdb, questdb_environment, questdb_server, table_name
from real_parts import small_disk

__all__ = ["mortal_questdb", "questdb_environment", "questdb_server", "small_disk", "table_name"]
