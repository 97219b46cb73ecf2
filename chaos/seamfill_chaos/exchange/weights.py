"""Request weights: what Binance counts per address and minute, and how it answers excess.

Pure: time comes in as the exchange's clock. A request over the limit is answered 429 with the
seconds until the next minute; an address that keeps going is banned (418), each time twice as long.
Source: Binance's REST documentation, sections "IP limits" and "Limits".
"""

from __future__ import annotations

from dataclasses import dataclass

WINDOW_MS = 60_000
ADDRESSES_MAX = 1_024
BAN_S_MAX = 3 * 24 * 3_600


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightRules:
    """Set the limits: weight per minute, 429 answers tolerated in one minute, first ban's length.

    The real numbers behind bans are not published; two minutes is the documented shortest one.
    """

    limit: int = 6_000
    refusals_before_ban: int = 10
    first_ban_s: int = 120


DEFAULT_WEIGHTS = WeightRules()


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """Tell what a request was charged.

    `status` is 200 when the request may go on, otherwise the HTTP status to refuse it with;
    `retry_after_s` and `banned_until_ms` are meaningful for refusals only.
    """

    used: int
    status: int = 200
    retry_after_s: int = 0
    banned_until_ms: int = 0


@dataclass(slots=True)
class _Account:
    window: int
    used: int = 0
    refusals: int = 0
    bans: int = 0
    banned_until_ms: int = 0


class WeightLimiter:
    """Count the weight of every address; at most `ADDRESSES_MAX`, the oldest forgotten first."""

    def __init__(self, rules: WeightRules) -> None:
        self.rules = rules
        self._accounts: dict[str, _Account] = {}

    def charge(self, address: str, weight: int, now_ms: int) -> Charge:
        """Charge the request and say whether it may go on. Refused requests are charged too."""
        account = self._account(address, now_ms // WINDOW_MS)
        if now_ms < account.banned_until_ms:
            return _banned(account, now_ms)
        account.used += weight
        if account.used <= self.rules.limit:
            return Charge(used=account.used)
        account.refusals += 1
        if account.refusals > self.rules.refusals_before_ban:
            ban_s = min(self.rules.first_ban_s << min(account.bans, 20), BAN_S_MAX)
            account.bans += 1
            account.refusals = 0
            account.banned_until_ms = now_ms + ban_s * 1_000
            return _banned(account, now_ms)
        wait_ms = WINDOW_MS - now_ms % WINDOW_MS
        return Charge(used=account.used, status=429, retry_after_s=_whole_seconds(wait_ms))

    def forget(self) -> None:
        """Start anew: no weight used, nobody banned. For when the exchange's clock was set."""
        self._accounts.clear()

    def _account(self, address: str, window: int) -> _Account:
        account = self._accounts.get(address)
        if account is None:
            if len(self._accounts) >= ADDRESSES_MAX:
                del self._accounts[next(iter(self._accounts))]
            account = self._accounts[address] = _Account(window)
        if account.window != window:
            account.window, account.used, account.refusals = window, 0, 0
        return account


def _banned(account: _Account, now_ms: int) -> Charge:
    return Charge(
        used=account.used,
        status=418,
        retry_after_s=_whole_seconds(account.banned_until_ms - now_ms),
        banned_until_ms=account.banned_until_ms,
    )


def _whole_seconds(span_ms: int) -> int:
    return -(-span_ms // 1_000)
