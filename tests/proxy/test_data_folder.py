from __future__ import annotations

import stat
from pathlib import Path

import pytest

from proxy.data_folder import DataFolder
from proxy.errors import StartError


def test_secrets_are_made_once_and_for_the_owner_only(tmp_path: Path) -> None:
    folder = DataFolder.open(tmp_path / "new")
    token, is_new = folder.admin_token({})
    assert is_new
    assert DataFolder.open(tmp_path / "new").admin_token({}) == (token, False)
    assert folder.secret() == folder.secret()
    for name in ("admin-token", "hmac-secret"):
        assert stat.S_IMODE((folder.path / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700


def test_the_environments_token_wins(tmp_path: Path) -> None:
    folder = DataFolder.open(tmp_path)
    assert folder.admin_token({"TOLLWAY_ADMIN_TOKEN": "x" * 20}) == ("x" * 20, False)
    assert not (tmp_path / "admin-token").exists()


@pytest.mark.parametrize(
    "token", ["", "short", "admin-admin-admin-admin", "sk-1234567890123456789"]
)
def test_a_token_that_could_be_guessed_is_refused(tmp_path: Path, token: str) -> None:
    with pytest.raises(StartError, match="TOLLWAY_ADMIN_TOKEN"):
        DataFolder.open(tmp_path).admin_token({"TOLLWAY_ADMIN_TOKEN": token})


@pytest.mark.parametrize("content", [b"", b"nonsense", b"abcd", b"\xff\xfe"])
def test_a_damaged_secret_is_never_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "hmac-secret").write_bytes(content)
    with pytest.raises(StartError, match="hmac-secret"):
        DataFolder.open(tmp_path).secret()
    assert (tmp_path / "hmac-secret").read_bytes() == content


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match="--data"):
        DataFolder.open(tmp_path / "file")
