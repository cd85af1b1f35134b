"""What a translation could not carry: refused, or left out and named, as the call asks."""

from __future__ import annotations

from adapters.base import BadRequest, Unsupported


class Losses:
    """Gathers the paths of what a provider is not told, for `Dispatch.dropped`."""

    def __init__(self, *, drop_params: bool) -> None:
        self._drop_params = drop_params
        self._dropped: dict[str, None] = {}

    @property
    def dropped(self) -> list[str]:
        """The paths, each once, in the order they were met."""
        return list(self._dropped)

    def refuse(self, param: str, why: str) -> None:
        """Name what cannot be carried, and is left out; raises `Unsupported` unless it may be."""
        if not self._drop_params:
            raise Unsupported(f"{why} ({param!r})", param=param)
        self.tell(param)

    def tell(self, param: str) -> None:
        """Name what is left out or changed where the request still means the same without it."""
        self._dropped[param] = None


def invalid(param: str, why: str) -> BadRequest:
    """The error for a request that is wrong in any dialect, found before it was sent."""
    return BadRequest(
        f"invalid value for {param!r}: {why}",
        status=400,
        type="invalid_request_error",
        param=param,
    )
