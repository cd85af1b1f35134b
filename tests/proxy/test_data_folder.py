from __future__ import annotations

import os
import stat
import subprocess
import sys
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
    token = "correct-horse-battery"
    assert folder.admin_token({"TOLLWAY_ADMIN_TOKEN": f" {token}\n"}) == (token, False)
    assert not (tmp_path / "admin-token").exists()


@pytest.mark.parametrize(
    "token",
    [
        "",
        " ",
        "short",
        "x" * 40,
        "12345123451234512345",
        "admin-admin-admin-admin",
        "Password-password-1",
        "sk-1234567890123456789",
        "correct horse battery",
        "correct-horse-b\u00e4ttery",
        "correct-horse\nbattery-staple",
    ],
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


def test_a_token_in_the_folder_is_checked_too(tmp_path: Path) -> None:
    (tmp_path / "admin-token").write_text("changeme\n")
    with pytest.raises(StartError, match="admin-token"):
        DataFolder.open(tmp_path).admin_token({})


def test_what_a_crash_left_behind_is_in_nobodys_way(tmp_path: Path) -> None:
    """In a container every process has the same number."""
    for name in ("admin-token", "hmac-secret"):
        (tmp_path / f".{name}-{os.getpid()}").write_text("half")
    folder = DataFolder.open(tmp_path)
    assert folder.admin_token({})[1]
    assert len(folder.secret()) == 32


def test_processes_that_start_at_once_agree_on_the_secret(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from proxy.data_folder import DataFolder\n"
        "folder = DataFolder.open(Path(sys.argv[1])); sys.stdin.read()\n"
        "print(folder.secret().hex(), *folder.admin_token({}))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "new")]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    for process in running:
        assert process.stdin
        process.stdin.close()
        process.stdin = None
    said = [process.communicate(timeout=30)[0].split() for process in running]
    assert len({(secret, token) for secret, token, _ in said}) == 1
    assert sum(is_new == "True" for _, _, is_new in said) == 1
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["admin-token", "hmac-secret"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write anything")
def test_what_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "hmac-secret").touch(0)
    with pytest.raises(StartError, match=r"hmac-secret: .*permissions"):
        DataFolder.open(tmp_path).secret()
    tmp_path.chmod(0o500)
    with pytest.raises(StartError, match="--data"):
        DataFolder.open(tmp_path)


def test_a_folder_in_the_place_of_a_secret_is_named(tmp_path: Path) -> None:
    (tmp_path / "hmac-secret").mkdir()
    with pytest.raises(StartError, match=r"hmac-secret: .*directory"):
        DataFolder.open(tmp_path).secret()


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk's."""
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from proxy.data_folder import DataFolder; from proxy.errors import StartError\n"
        "folder = DataFolder.open(Path(sys.argv[1]))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "try: folder.secret()\n"
        "except StartError as error: sys.stderr.write(str(error))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "hmac-secret: cannot be read or made (File too large)" in done.stderr
    assert list(tmp_path.iterdir()) == []
