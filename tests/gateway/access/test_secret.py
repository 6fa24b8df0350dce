from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.access.secret import CACHE_SALT, KEYS, DeploymentSecret, deployment_secret
from gateway.settings import SettingsError

TEXT = "0123456789abcdef0123456789abcdef"


def test_every_purpose_has_its_own_key() -> None:
    secret = DeploymentSecret(TEXT)
    derived = {secret.derive(KEYS), secret.derive(CACHE_SALT), bytes.fromhex(secret.fingerprint())}
    assert len(derived) == 3
    assert secret.derive(KEYS) == DeploymentSecret(TEXT).derive(KEYS)
    assert secret.derive(KEYS) != DeploymentSecret(TEXT + "x").derive(KEYS)


def test_derivation_is_hkdf_and_stays_as_it_is() -> None:
    # Another way of deriving would lock every key out.
    expected = HKDF(SHA256(), 32, None, b"sluice/keys/v1").derive(TEXT.encode())
    assert DeploymentSecret(TEXT).derive(KEYS) == expected
    assert (KEYS, CACHE_SALT) == ("sluice/keys/v1", "sluice/cache-salt/v1")


def test_the_secret_is_not_shown() -> None:
    assert TEXT not in repr(DeploymentSecret(TEXT))


def test_a_configured_secret_needs_no_file(tmp_path: Path) -> None:
    assert deployment_secret(TEXT, tmp_path / "none").fingerprint() == DeploymentSecret(TEXT).fingerprint()
    assert list(tmp_path.iterdir()) == []


def test_a_missing_secret_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    first = deployment_secret(None, folder)
    (file,) = folder.iterdir()
    assert (file.name, file.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == ("secret", 0o600, 0o700)
    assert deployment_secret(None, folder).fingerprint() == first.fingerprint()
    assert deployment_secret(None, tmp_path / "other").fingerprint() != first.fingerprint()


def _fingerprint(folder: Path, barrier: Any, results: Any) -> None:
    barrier.wait()
    results.put(deployment_secret(None, folder).fingerprint())


@pytest.mark.slow
def test_starts_at_once_agree(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_fingerprint, args=(tmp_path, barrier, results)) for _ in range(4)]
    for process in processes:
        process.start()
    assert len({results.get(timeout=60) for _ in processes}) == 1
    for process in processes:
        process.join(60)
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


@pytest.mark.parametrize("content", [b"", b"short\n", b"\xff" * 64])
def test_a_file_that_holds_no_secret_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "secret").write_bytes(content)
    with pytest.raises(SettingsError, match="secret"):
        deployment_secret(None, tmp_path)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=str(tmp_path)):
        deployment_secret(None, tmp_path / "file")
