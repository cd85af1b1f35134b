"""The matrix of clients and providers is what it is said to be, cell by cell."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.e2e import matrix
from tests.e2e.dialect_upstream import MODELS, Providers
from tests.e2e.matrix import CLIENTS, EXPLAINED, FEATURES, PAGE, Client
from tests.e2e.stand_ins import has_npm_peers
from tests.e2e.tollway import Tollway


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Tollway, Providers]]:
    with matrix.running(tmp_path_factory.mktemp("matrix")) as running:
        yield running


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_client_gets_the_same_from_every_provider(
    client: Client,
    server: tuple[Tollway, Providers],
    record_property: Callable[[str, object], None],
) -> None:
    if client.is_node and not has_npm_peers():
        pytest.skip("Node.js or the npm packages are not here (make test installs them)")
    tollway, providers = server
    key = tollway.admin("POST", "/keys", {"name": client.name})["key"]
    found = matrix.ask(client, tollway.url, key)
    record_property("matrix", [client.name, [cell[1:] for cell, error in found.items() if error]])
    assert found.keys() == {(client.name, name, feature) for name in MODELS for feature in FEATURES}
    assert not matrix.unexpected(found), "\n".join(providers.refused)
    assert not providers.refused


def test_the_page_is_the_matrix() -> None:
    page = PAGE.read_text()
    said = page.partition(matrix.BEGIN)[2].partition(matrix.END)[0]
    assert said.strip() == matrix.tables().strip(), "python -m tests.e2e.matrix"


def test_no_explanation_is_of_something_else() -> None:
    clients = {client.name for client in CLIENTS}
    for client, provider, feature in EXPLAINED:
        assert client in clients
        assert provider in (*MODELS, "*")
        assert feature in FEATURES
