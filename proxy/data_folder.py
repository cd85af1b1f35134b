"""The data folder: the ledger, the secret of the key digests, the admin token. Owner only."""

from __future__ import annotations

import os
import secrets
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
            probe = path / f".write-{os.getpid()}"
            probe.touch()
            probe.unlink()
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
        try:
            return path.read_text(encoding="ascii").strip(), False
        except FileNotFoundError:
            pass
        except (OSError, UnicodeDecodeError) as error:
            raise StartError(f"{path}: cannot be read ({error}); check its permissions") from None
        text = make()
        # Whole or not at all, and never readable by others, not even for a moment.
        draft = path.with_name(f".{name}-{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text + "\n")
        draft.replace(path)
        return text, True


def _checked(token: str, where: str) -> str:
    if len(token) < MIN_TOKEN_LENGTH or token.lower().startswith(_DEFAULT_TOKENS):
        raise StartError(
            f"{where}: the admin token is short or a default; use at least {MIN_TOKEN_LENGTH} "
            "random characters, or remove it and one is made"
        )
    return token
