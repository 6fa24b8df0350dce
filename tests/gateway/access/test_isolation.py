from __future__ import annotations

import pytest

from gateway.access.isolation import CacheSalts

KEY = b"k" * 32


def test_tenants_differ_and_groups_share() -> None:
    salts = CacheSalts(KEY, {"team": ["a", "b"], "c": ["d"]})
    assert salts.salt("a") == salts.salt("b")
    assert len({salts.salt(tenant) for tenant in ("a", "c", "d", "e", "team")}) == 5
    assert salts.salt("e") == CacheSalts(KEY, {}).salt("e")


def test_the_salt_depends_on_the_secret() -> None:
    assert CacheSalts(KEY, {}).salt("a") != CacheSalts(b"x" * 32, {}).salt("a")


def test_a_tenant_in_two_groups_is_refused() -> None:
    with pytest.raises(ValueError, match="'a' stands in two groups"):
        CacheSalts(KEY, {"one": ["a"], "two": ["a"]})
