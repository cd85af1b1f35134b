"""What of a request no chat can say, by its path."""

from __future__ import annotations

from dataclasses import dataclass, field

from adapters.base import Unsupported


@dataclass(slots=True)
class Losses:
    """`refused` changes what is asked; `told` does not, and is left out without a refusal.

    `unbounded` names what of it has no bound on its cost where a provider can read it.
    """

    refused: dict[str, str] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    unbounded: str | None = None

    def refuse(self, path: str, why: str = "", *, costs: bool = False) -> None:
        """Note what cannot be left out silently; whether its cost has no bound."""
        self.refused.setdefault(path, why or f"{path!r} cannot be carried over a chat")
        if costs:
            self.unbounded = self.unbounded or path

    def tell(self, path: str) -> None:
        """Note what is left out."""
        self.told.append(path)

    def check(self, *, drop: bool) -> list[str]:
        """The paths of what is left out. Raises `Unsupported`, unless it may be dropped."""
        if self.refused and not drop:
            path, why = next(iter(self.refused.items()))
            raise Unsupported(why, param=path)
        return [*self.refused, *self.told]
