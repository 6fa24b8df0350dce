"""Cache salts: tenants with different salts never share a cached prompt, so none can time another's.

vLLM mixes the salt into the hash of a prompt's first block (vllm/v1/core/kv_cache_utils.py); the blocks that follow
depend on it. The salt is keyed, because who could compute another's salt could not be told apart by it.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

MAX_REMEMBERED: Final = 4096


class CacheSalts:
    """``key`` is secret. ``groups`` name tenants that share their cache with each other.

    Raises ValueError for a tenant that stands in two groups.
    """

    def __init__(self, key: bytes, groups: Mapping[str, Sequence[str]]) -> None:
        self._key = key
        self._group_of: dict[str, str] = {}
        for group, tenants in groups.items():
            for tenant in tenants:
                if self._group_of.setdefault(tenant, group) != group:
                    raise ValueError(f"cache.groups: {tenant!r} stands in two groups")
        self.salt = lru_cache(MAX_REMEMBERED)(self._salt)

    def _salt(self, tenant: str) -> str:
        """The salt of ``tenant``, or of the group that it shares with."""
        group = self._group_of.get(tenant)
        # A tenant and a group of one name are different domains.
        domain = f"tenant\0{tenant}" if group is None else f"group\0{group}"
        return hmac.digest(self._key, domain.encode(), "sha256").hex()
