"""Presets: what each dataset is, and what each venue can do, read from YAML.

Owns the two file formats (``presets.yaml`` and ``exchanges.yaml``, packaged in
``seamfill_presets``, replaceable by the caller's own file) and the frozen values they become. Must
not know the environment: whoever honours ``SEAMFILL_PRESETS_FILE`` hands the path in.

Invariants: a file is used whole or not at all; every refusal is ``InvalidInput`` whose ``field`` is
the full path of the offending entry (``data_presets.ohlcv.x.interval_ms``); nothing unknown is
skipped, because a mistyped key must not become a default.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import Annotated, Final, TypeVar

import msgspec
import yaml
from msgspec import Meta, Struct

from seamfill.connectors import Venue
from seamfill.errors import InvalidInput
from seamfill.protocol.values import DatasetSpec
from seamfill.sla import SLA_PRESETS

__all__ = [
    "BackfillMode",
    "BackfillPreset",
    "DataKind",
    "LivePreset",
    "Preset",
    "Presets",
    "cautious_venue",
    "load_presets",
    "load_venues",
]

MAX_FILE_BYTES: Final = 1 << 20
MAX_ENTRIES: Final = 10_000
FORMAT_VERSION: Final = 1
SUGGESTIONS: Final = 3
# Quote currencies that a joined symbol may end in, longest first where one ends another.
_QUOTES: Final = ("USDT", "USDC", "BUSD", "TUSD", "BTC", "ETH", "BNB", "EUR", "USD")

NonNegativeInt = Annotated[int, Meta(ge=0)]
Ident = Annotated[str, Meta(min_length=1, max_length=200)]
_CONNECTOR: Final = r"^[a-z0-9_]+:.+$"
ConnectorName = Annotated[str, Meta(min_length=3, max_length=200, pattern=_CONNECTOR)]


class DataKind(StrEnum):
    """What a row of the dataset is; picks the conformance schema. No store takes others yet."""

    OHLCV = "ohlcv"


_KINDS: Final = tuple(kind.value for kind in DataKind)
_CONFORMANCE_PRESETS: Final = ("strict-blocking", "permissive-dev")


class BackfillMode(StrEnum):
    """Whether the backfill outlives the ``fetch`` that asked for it."""

    BACKGROUND = "background"
    SYNC = "sync"


class _Strict(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything read from a file: unknown keys are refused."""


class BackfillPreset(_Strict, frozen=True):
    """Where missing bars come from, and how many make a window."""

    source: ConnectorName
    mode: BackfillMode = BackfillMode.BACKGROUND
    window_bars: Annotated[int, Meta(ge=1, le=100_000)] = 1800


class LivePreset(_Strict, frozen=True):
    """The feed of the live edge, and how far behind it may be."""

    feed: Ident
    max_lag_seconds: NonNegativeInt = 45


class _PresetEntry(_Strict, frozen=True):
    """One preset as the file spells it; ``kind`` is still a string so that it is refused by name.

    ``dense`` overrides what the venue says (a dense venue can have sparse datasets).
    """

    kind: str
    interval_ms: Annotated[int, Meta(ge=1, le=366 * 86_400_000)]
    storage: ConnectorName
    backfill: BackfillPreset
    live: LivePreset | None = None
    conformance_preset: Ident = "strict-blocking"
    sla_preset: Ident = "baseline"
    stabilization_bars: Annotated[int, Meta(ge=0, le=10_000)] = 0
    dense: bool | None = None


class _VenueEntry(_Strict, frozen=True):
    page_bars: Annotated[int, Meta(ge=1, le=1_000_000)]
    page_weight: Annotated[int, Meta(ge=0, le=1_000_000)]
    weight_per_minute: Annotated[int, Meta(ge=0, le=10_000_000)]
    since_inclusive: bool = True
    dense: bool = True
    settle_ms: Annotated[int, Meta(ge=0, le=86_400_000)] = 2_000
    max_concurrent: Annotated[int, Meta(ge=1, le=1_000)] = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """What a dataset is: kind, grid, where it is stored and where it comes from."""

    id: str
    kind: DataKind
    interval_ms: int
    storage: str
    backfill: BackfillPreset
    live: LivePreset | None
    conformance_preset: str
    sla_preset: str
    stabilization_bars: int
    dense: bool | None

    def dataset_spec(self, venues: Mapping[str, Venue], *, store: str | None = None) -> DatasetSpec:
        """Return the identity that the dataset's first backfill registers.

        ``store`` replaces the preset's storage (``InvalidInput`` when it is no store's name).
        Whether the series is dense is the preset's word, else the venue's.
        """
        if store is not None and not re.fullmatch(_CONNECTOR, store):
            raise InvalidInput("store", f"{store!r} is not like questdb:TABLE or parquet:DIR")
        venue = venues.get(self.backfill.source) or cautious_venue(self.backfill.source)
        return DatasetSpec(
            kind=self.kind.value,
            interval_ms=self.interval_ms,
            source=self.backfill.source,
            store=store or self.storage,
            dense=venue.dense if self.dense is None else self.dense,
        )

    def check_symbol(self, symbol: str) -> None:
        """Refuse a symbol that can not be spelt as its source's registry does."""
        source = self.backfill.source
        if source.startswith("ccxt:") and "/" not in symbol:
            raise InvalidInput(
                "symbol",
                f"{symbol!r} is not spelt as {source} does: base/quote, like BTC/USDT"
                f"{_split_hint(symbol)}",
            )


@dataclass(frozen=True, slots=True)
class Presets(Mapping[str, Preset]):
    """All presets of one file, by dataset, in the file's order."""

    entries: Mapping[str, Preset]
    origin: str

    def __getitem__(self, dataset: str) -> Preset:
        return self.entries[dataset]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def preset(self, dataset: str) -> Preset:
        """Return the dataset's preset, or raise ``InvalidInput`` with the nearest names."""
        found = self.entries.get(dataset)
        if found is not None:
            return found
        near = difflib.get_close_matches(dataset, self.entries, n=SUGGESTIONS, cutoff=0.4)
        hint = (
            f"did you mean {' or '.join(near)}?"
            if near
            else f"known: {', '.join(list(self.entries)[:10]) or 'none'}"
        )
        raise InvalidInput("dataset", f"{dataset!r} is not in {self.origin}; {hint}")


def load_presets(path: Path | None = None) -> Presets:
    """Read the presets file, or the packaged one; raise ``InvalidInput`` naming the entry."""
    origin, document = _read(path, "presets.yaml")
    entries = _section(document, "data_presets", origin)
    return Presets(
        {name: _preset(name, entry) for name, entry in entries.items()},
        origin,
    )


def load_venues(path: Path | None = None) -> Mapping[str, Venue]:
    """Read the venues file, or the packaged one, by source name (``ccxt:binance``)."""
    origin, document = _read(path, "exchanges.yaml")
    venues: dict[str, Venue] = {}
    for name, entry in _section(document, "venues", origin).items():
        field = f"venues.{name}"
        if ":" not in name:
            raise InvalidInput(field, "a source is named <kind>:<name>, like ccxt:binance")
        venues[name] = Venue(
            name=name, **msgspec.structs.asdict(_convert(entry, _VenueEntry, field))
        )
    return venues


def cautious_venue(source: str) -> Venue:
    """Return what is assumed of a venue that no file describes: little, slowly, one at a time.

    Not dense, so that an absent bar is never called a hole on a venue nobody has looked at.
    """
    return Venue(
        name=source,
        page_bars=100,
        page_weight=1,
        weight_per_minute=60,
        since_inclusive=False,
        dense=False,
        settle_ms=60_000,
        max_concurrent=1,
    )


def _split_hint(symbol: str) -> str:
    for quote in _QUOTES:
        base = symbol.upper().removesuffix(quote)
        if base and base != symbol.upper():
            return f"; did you mean {base.rstrip('-_')}/{quote}?"
    return ""


def _refuse_unknown(field: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise InvalidInput(field, f"{name!r} is not known; one of {', '.join(known)}")


def _preset(name: str, raw: object) -> Preset:
    field = f"data_presets.{name}"
    entry = _convert(raw, _PresetEntry, field)
    if entry.kind not in _KINDS:
        raise InvalidInput(
            f"{field}.kind",
            f"{entry.kind!r} is not built yet; one of {', '.join(_KINDS)}",
        )
    _refuse_unknown(f"{field}.conformance_preset", entry.conformance_preset, _CONFORMANCE_PRESETS)
    _refuse_unknown(f"{field}.sla_preset", entry.sla_preset, SLA_PRESETS)
    return Preset(
        id=name,
        kind=DataKind(entry.kind),
        **{key: getattr(entry, key) for key in entry.__struct_fields__ if key != "kind"},
    )


def _section(document: Mapping[str, object], key: str, origin: str) -> Mapping[str, object]:
    unknown = sorted(set(document) - {"version", key})
    if unknown:
        raise InvalidInput(unknown[0], f"unknown key in {origin}; expected version and {key}")
    if document.get("version") != FORMAT_VERSION or document.get("version") is True:
        raise InvalidInput(
            "version",
            f"{origin} has {document.get('version')!r}; this release reads {FORMAT_VERSION}",
        )
    section = document.get(key)
    if not isinstance(section, dict):
        raise InvalidInput(key, f"must be a mapping of names to entries in {origin}")
    if len(section) > MAX_ENTRIES:
        raise InvalidInput(key, f"has {len(section)} entries, at most {MAX_ENTRIES} are read")
    for name in section:
        if not isinstance(name, str) or not re.fullmatch(r"[^\x00-\x1f\x7f|]{1,200}", name):
            raise InvalidInput(
                f"{key}.{name}",
                "a name is 1–200 characters of text without | or control characters",
            )
    return section


# --- reading ------------------------------------------------------------------------------------


def _read(path: Path | None, packaged: str) -> tuple[str, Mapping[str, object]]:
    """Return where the text came from and the mapping it holds."""
    if path is None:
        origin = f"the packaged {packaged}"
        data = resources.files("seamfill_presets").joinpath(packaged).read_bytes()
    else:
        origin = str(path)
        try:
            with path.open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as exc:
            raise InvalidInput("presets_file", f"can not read {path}: {exc.strerror}") from exc
    if len(data) > MAX_FILE_BYTES:
        raise InvalidInput("presets_file", f"{origin} is larger than {MAX_FILE_BYTES} bytes")
    document = _parse(data, origin)
    if not isinstance(document, dict):
        raise InvalidInput("presets_file", f"{origin} must hold a mapping")
    return origin, document


def _parse(data: bytes, origin: str) -> object:
    try:
        return yaml.load(data, Loader=_StrictLoader)
    except _Duplicate as exc:
        raise InvalidInput(exc.path, f"given twice in {origin} (line {exc.line})") from exc
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        reason = getattr(exc, "problem", None) or str(exc)
        raise InvalidInput("presets_file", f"{origin} is not YAML{where}: {reason}") from exc
    except (RecursionError, UnicodeDecodeError, ValueError) as exc:
        raise InvalidInput("presets_file", f"{origin} is not usable YAML: {exc}") from exc


class _Duplicate(Exception):
    """A mapping has a key twice; carries the path of the second one."""

    def __init__(self, path: str, line: int) -> None:
        super().__init__(path)
        self.path = path
        self.line = line


class _StrictLoader(yaml.SafeLoader):
    """A SafeLoader that refuses what SafeLoader lets pass: repeated keys and aliases.

    SafeLoader keeps the last of two equal keys, which turns a copy-and-paste slip into a silently
    different dataset. Aliases can make a small file explode, and no preset needs them.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.constructor.ConstructorError(None, None, "aliases are not allowed here")
        return super().compose_node(parent, index)

    def get_single_data(self) -> object:
        node = self.get_single_node()
        if node is None:
            return None
        _refuse_repeated_keys(node, "")
        return self.construct_document(node)


def _refuse_repeated_keys(node: yaml.Node, path: str) -> None:
    if isinstance(node, yaml.SequenceNode):
        for at, item in enumerate(node.value):
            _refuse_repeated_keys(item, f"{path}[{at}]")
        return
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[Hashable] = set()
    for key, value in node.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else repr(key.tag)
        inner = f"{path}.{name}" if path else str(name)
        if name in seen:
            raise _Duplicate(inner, key.start_mark.line + 1)
        seen.add(name)
        _refuse_repeated_keys(value, inner)


# --- from plain values to ours ------------------------------------------------------------------

T = TypeVar("T")


def _convert(raw: object, kind: type[T], field: str) -> T:
    """Check a plain value against a Struct; name the full path of what is wrong."""
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as exc:
        message, _, at = str(exc).partition(" - at ")
        inner = at.strip("`").removeprefix("$")
        named = re.search(r"(?:unknown|required) field `([^`]+)`", message)
        if named:
            inner += f".{named.group(1)}"
            message = (
                "this key is required"
                if "required" in message
                else "unknown key; check its spelling"
            )
        raise InvalidInput(f"{field}{inner}", _lower_first(message)) from exc


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
