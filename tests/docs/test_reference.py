"""The documentation says what the code does: codes are listed, links lead somewhere."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import seamfill
import seamfill_chaos
import seamfill_coordinator
import seamfill_worker
from docs.command_lines import render
from seamfill.errors import SeamfillError
from seamfill.terminal import Exit

ROOT = Path(__file__).resolve().parents[2]
ERRORS = (ROOT / "docs" / "reference" / "errors.md").read_text()
_LINK = re.compile(r"\]\(([^)#]+)(#[^)]*)?\)")


def import_everything(package: ModuleType) -> None:
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def error_classes(base: type[SeamfillError] = SeamfillError) -> list[type[SeamfillError]]:
    found = []
    for child in base.__subclasses__():
        found += [child, *error_classes(child)]
    return found


def test_every_error_of_ours_is_in_the_reference() -> None:
    for package in (seamfill, seamfill_coordinator, seamfill_worker, seamfill_chaos):
        import_everything(package)
    ours = [kind for kind in error_classes() if kind.__module__.startswith("seamfill")]
    missing = {kind.code for kind in ours if f"| `{kind.code}` | " not in ERRORS}
    assert len(ours) > 20
    assert not missing


def test_every_exit_code_is_in_the_reference() -> None:
    missing = {code for code in Exit if f"\n| {code.value} | " not in ERRORS}
    assert not missing


def test_links_between_documents_lead_to_files() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/DESIGN.md")]
    assert len(pages) > 10
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target, _ in _LINK.findall(page.read_text())
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert broken == []


def test_the_reference_of_command_lines_is_what_the_commands_say() -> None:
    page = (ROOT / "docs" / "reference" / "command-lines.md").read_text()
    assert page == render(), "renew it: see tests/docs/command_lines.py"
