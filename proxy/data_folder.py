"""The data folder: the ledger, the secret of the key digests, the admin token. Owner only."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from proxy.errors import StartError

MIN_TOKEN_LENGTH = 20
_DEFAULT_TOKENS = ("admin", "changeme", "change-me", "password", "secret", "sk-1234", "token")


@dataclass(frozen=True, slots=True)
class DataFolder:
    """A folder that exists and can be written."""

    path: Path

    @classmethod
    def open(cls, path: Path) -> DataFolder:
        """Make the folder if need be; raises `StartError` where it cannot be used."""
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=path).close()
        except OSError as error:
            raise StartError(
                f"{path}: the data folder cannot be written ({error.strerror}); "
                "make it writable, or name another with --data or TOLLWAY_DATA"
            ) from None
        return cls(path.resolve())

    @property
    def metrics(self) -> Path:
        """Where every process counts."""
        return self.path / "metrics"

    def secret(self) -> bytes:
        """The secret of the key digests; made on first use. Without it no key is known any more."""
        text = self._read_or_make("hmac-secret", lambda: secrets.token_hex(32))[0]
        try:
            value = bytes.fromhex(text)
        except ValueError:
            value = b""
        if len(value) < 32:
            raise StartError(
                f"{self.path / 'hmac-secret'}: is damaged; restore it from a backup "
                "(or delete it, and make every key anew)"
            )
        return value

    def admin_token(self, environ: Mapping[str, str]) -> tuple[str, bool]:
        """The admin token, and whether it was made just now.

        `TOLLWAY_ADMIN_TOKEN` wins over the file. Raises `StartError` for one that could be guessed.
        """
        given = environ.get("TOLLWAY_ADMIN_TOKEN")
        if given is not None:
            return _checked(given.strip(), "TOLLWAY_ADMIN_TOKEN"), False
        token, is_new = self._read_or_make("admin-token", lambda: secrets.token_urlsafe(32))
        return _checked(token, str(self.path / "admin-token")), is_new

    def _read_or_make(self, name: str, make: Callable[[], str]) -> tuple[str, bool]:
        path = self.path / name
        is_new = False
        try:
            if not path.exists():
                is_new = self._place(path, make())
            return path.read_text(encoding="ascii").strip(), is_new
        except UnicodeDecodeError:
            raise StartError(f"{path}: is damaged; restore it from a backup") from None
        except OSError as error:
            raise StartError(
                f"{path}: cannot be read or made ({error.strerror}); check its permissions"
            ) from None

    def _place(self, path: Path, text: str) -> bool:
        """Write a file whole or not at all, and never over another's; whether it is this one.

        It is never readable by others, not even for a moment.
        """
        with tempfile.NamedTemporaryFile("w", dir=self.path, prefix=f".{path.name}-") as draft:
            draft.write(text + "\n")
            draft.flush()
            os.fsync(draft.fileno())
            try:
                os.link(draft.name, path)
            except FileExistsError:
                return False
        return True


def _checked(token: str, where: str) -> str:
    is_weak = len(token) < MIN_TOKEN_LENGTH or len(set(token)) < MIN_TOKEN_LENGTH // 3
    if is_weak or token.lower().startswith(_DEFAULT_TOKENS):
        raise StartError(
            f"{where}: the admin token is short or a default; use at least {MIN_TOKEN_LENGTH} "
            "random characters, or remove it and one is made"
        )
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise StartError(f"{where}: the admin token has characters that no header can carry")
    return token
