"""LiteLLM's admin endpoints, with its field names, over the same keys, teams and budgets.

So that scripts written for LiteLLM go on working. What a field asks for that is not done here is
refused by name, never ignored.
"""

from __future__ import annotations

from proxy.admin.books import Books
from proxy.admin.litellm.budgets import LiteLlmBudgets
from proxy.admin.litellm.keys import LiteLlmKeys
from proxy.admin.litellm.spend import LiteLlmSpend
from proxy.admin.litellm.teams import LiteLlmTeams
from proxy.admin.operations import Operation

PREFIXES = ("/key/", "/team/", "/budget/", "/spend/", "/global/")


class LiteLlmApi:
    """The operations with LiteLLM's names."""

    def __init__(self, books: Books) -> None:
        self._books = books

    def operations(self) -> list[Operation]:
        """All of them."""
        return [
            *LiteLlmKeys(self._books).operations(),
            *LiteLlmTeams(self._books).operations(),
            *LiteLlmBudgets(self._books).operations(),
            *LiteLlmSpend(self._books).operations(),
        ]
