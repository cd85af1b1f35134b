"""How Anthropic tells that something went wrong: `{"type": "error", "error": {...}}`.

Source: Anthropic's documentation, "Errors". The statuses are those of `proxy.errors`; the official
SDKs go by them. A budget that is spent is a 429, as Anthropic's own spend limits are.
"""

from __future__ import annotations

import msgspec

from proxy.errors import ApiError

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
# Clients that shorten a conversation when it no longer fits look for these words.
_TOO_LONG = "prompt is too long"


class AnthropicFailures:
    """Anthropic's errors; the machine-readable reason is in `details`, as it has it."""

    keepalive = b'event: ping\ndata: {"type": "ping"}\n\n'

    def status(self, error: ApiError) -> int:
        """See `Failures`."""
        return error.status

    def body(self, error: ApiError, request_id: str) -> bytes:
        """See `Failures`."""
        status = error.status
        other = "invalid_request_error" if status < 500 else "api_error"
        message = error.message
        if error.code == "context_length_exceeded" and _TOO_LONG not in message:
            message = f"{_TOO_LONG}: {message}"
        said = {"type": _TYPES.get(status, other), "message": message}
        details = {"error_code": error.code, "param": error.param}
        known = {name: value for name, value in details.items() if value is not None}
        return msgspec.json.encode(
            {
                "type": "error",
                "error": {**said, "details": known} if known else said,
                "request_id": request_id,
            }
        )

    def event(self, error: ApiError, request_id: str) -> bytes:
        """See `Failures`."""
        return b"event: error\ndata: %b\n\n" % self.body(error, request_id)


ANTHROPIC_FAILURES = AnthropicFailures()
