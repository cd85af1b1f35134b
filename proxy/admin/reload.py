"""`/admin/v1/reload`: which configuration is served, and having it read again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from proxy.admin.operations import Operation, operation
from proxy.admin.shapes import Body, Shown, read_json
from proxy.errors import InvalidRequest, Overloaded
from proxy.reloading import Outcome, Wanted


class Reload(Body, frozen=True, kw_only=True):
    """What to do."""

    check: bool = False
    """Only say what would become of it."""

    @classmethod
    def read(cls, body: bytes) -> Reload:
        """No body asks for nothing else."""
        return read_json(body, cls) if body else cls()


class RevisionShown(Shown, frozen=True, kw_only=True):
    """The configuration that is served."""

    revision: int
    """How often it was read again since the start."""
    source: str
    """The file."""
    needs_restart: list[str]
    """Settings that are others in the file, and take effect when the server is started again."""
    problems: list[str]
    """What did not go as it should: a process that could not take the revision over, say."""


class ReloadApi:
    """What can be asked about the configuration as a whole."""

    def __init__(self, served: Outcome, reload: Callable[[Wanted], Awaitable[Outcome]]) -> None:
        """`served` is what this worker serves; `reload` may raise `OSError`."""
        self._served = served
        self._reload = reload

    def operations(self) -> list[Operation]:
        """Everything that can be asked for."""
        path = "/admin/v1/reload"
        return [
            operation("GET", path, self.show_revision, tag="reload"),
            operation("POST", path, self.reload, tag="reload"),
        ]

    async def show_revision(self) -> RevisionShown:
        """The revision of the configuration that the worker which answers serves by."""
        return _shown(self._served)

    async def reload(self, body: Reload) -> RevisionShown:
        """Read the configuration again; where it is refused, the one before is served on."""
        try:
            outcome = await self._reload(Wanted(is_dry=body.check))
        except OSError:
            raise Overloaded(
                "the supervisor does not answer; try again", headers={"retry-after": "1"}
            ) from None
        if outcome.refusal:
            raise InvalidRequest(outcome.refusal)
        return _shown(outcome)


def _shown(outcome: Outcome) -> RevisionShown:
    return RevisionShown(
        revision=outcome.revision,
        source=outcome.source,
        needs_restart=list(outcome.needs_restart),
        problems=list(outcome.problems),
    )
