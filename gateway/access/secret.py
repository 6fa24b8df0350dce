"""The deployment secret, and the keys derived from it: one per purpose, so that no value made for one fits another."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.settings import MIN_SECRET_LENGTH, SettingsError

KEYS: Final = "sluice/keys/v1"
CACHE_SALT: Final = "sluice/cache-salt/v1"
_FINGERPRINT: Final = "sluice/fingerprint/v1"
_FILE: Final = "secret"


class DeploymentSecret:
    """Never shown: only what is derived from it leaves."""

    __slots__ = ("_material",)

    def __init__(self, text: str) -> None:
        self._material = text.encode()

    def derive(self, purpose: str) -> bytes:
        """32 bytes for ``purpose``, a label such as :data:`KEYS` (HKDF-SHA256)."""
        return HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose.encode()).derive(self._material)

    def fingerprint(self) -> str:
        """Tells secrets apart and says nothing else about them."""
        return self.derive(_FINGERPRINT)[:16].hex()

    def __repr__(self) -> str:
        return "DeploymentSecret(***)"


def deployment_secret(configured: str | None, state_dir: Path) -> DeploymentSecret:
    """The configured secret, else the one in ``state_dir``, which is made on the first run.

    Blocks on files. Raises :class:`~gateway.settings.SettingsError`.
    """
    if configured is not None:
        return DeploymentSecret(configured)
    path = state_dir / _FILE
    try:
        if not path.exists():
            _make(path)
        text = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"secret: {getattr(error, 'strerror', None) or 'not text'}: {path}") from error
    if len(text) < MIN_SECRET_LENGTH:
        raise SettingsError(f"secret: {path} holds fewer than {MIN_SECRET_LENGTH} characters")
    return DeploymentSecret(text)


def _make(path: Path) -> None:
    """Write a new secret, unless another process is first: the file appears whole or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(48) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
