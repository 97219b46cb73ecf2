"""Binance's errors: an HTTP status, a negative code of its own, and a message clients match on.

Pure. Source: Binance's list of error codes for spot.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiError:
    """Hold one error as Binance answers it."""

    status: int = 400
    code: int
    message: str


INVALID_SYMBOL = ApiError(code=-1121, message="Invalid symbol.")
OVERLOADED = ApiError(
    status=503,
    code=-1008,
    message="Server is currently overloaded with other requests. "
    "Please try again in a few minutes.",
)
BACKEND_TIMEOUT = ApiError(
    status=504,
    code=-1007,
    message="Timeout waiting for response from backend server. "
    "Send status unknown; execution status unknown.",
)


def unknown_error(status: int) -> ApiError:
    """Return the error for any status that has none of its own."""
    return ApiError(
        status=status,
        code=-1000,
        message="An unknown error occurred while processing the request.",
    )


def too_much_weight(limit: int) -> ApiError:
    """Return the answer to a request over the weight limit."""
    return ApiError(
        status=429,
        code=-1003,
        message=f"Too much request weight used; current limit is {limit} request weight per "
        "1 MINUTE. Please use WebSocket Streams for live updates to avoid polling the API.",
    )


def banned(until_ms: int) -> ApiError:
    """Return the answer to a banned address."""
    return ApiError(
        status=418,
        code=-1003,
        message=f"Way too much request weight used; IP banned until {until_ms}. "
        "Please use WebSocket Streams for live updates to avoid bans.",
    )


def illegal_characters(name: str, legal: str) -> ApiError:
    """Return the answer to a value outside of the parameter's legal range."""
    return ApiError(
        code=-1100,
        message=f"Illegal characters found in parameter '{name}'; legal range is '{legal}'.",
    )
