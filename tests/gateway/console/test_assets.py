"""The console's files: what is served of them, to whom, under which policy."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import httpx
import pytest

from gateway.console.assets import CONTENT_SECURITY_POLICY, read_assets
from tests.support.gateways import Live, running
from tests.support.stub_engine import StubEngine

STATIC = files("gateway.console") / "static"
NAMES = sorted(each.name for each in STATIC.iterdir())


def text(name: str) -> str:
    return (STATIC / name).read_text("utf-8")


async def test_every_file_is_served_without_a_key_under_the_policy(tmp_path: Path) -> None:
    async with (
        running(StubEngine(), tmp_path, console={"enabled": True}) as live,
        httpx.AsyncClient(base_url=live.url, timeout=60) as client,
    ):
        answers = {asset.path: await client.get(asset.path) for asset in read_assets()}
        described = (await client.get("/openapi.yaml")).text
        for path in ("/console/", "/console/no.js", "/console/static/main.js"):
            assert (await client.get(path)).status_code == 404
        assert (await client.post("/console")).status_code == 405
    assert len(answers) == len(NAMES)
    for path, answer in answers.items():
        assert answer.status_code == 200
        assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "set-cookie" not in answer.headers
        assert f"{path}:" in described
    assert answers["/console"].headers["content-type"] == "text/html; charset=utf-8"
    assert answers["/console/main.js"].headers["content-type"] == "text/javascript; charset=utf-8"


async def test_it_is_off_unless_asked_for_or_in_development(stub: Live, tmp_path: Path) -> None:
    async with httpx.AsyncClient(base_url=stub.url) as client:
        assert (await client.get("/console")).status_code == 404
        assert (await client.get("/console/main.js")).status_code == 404
    for flags, there in (({"dev": True}, 200), ({"dev": True, "console": {"enabled": False}}, 404)):
        async with (
            running(StubEngine(), tmp_path / str(there), **flags) as live,
            httpx.AsyncClient(base_url=live.url, timeout=60) as client,
        ):
            assert (await client.get("/console")).status_code == there


def test_the_policy_allows_nothing_but_our_own_files() -> None:
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert "default-src 'none'" in CONTENT_SECURITY_POLICY
    assert "require-trusted-types-for 'script'" in CONTENT_SECURITY_POLICY


def test_the_page_has_nothing_inline_and_nothing_from_elsewhere() -> None:
    page = text("index.html")
    assert not re.search(r"\son\w+=|style=|<style|<script(?![^>]*\ssrc=)", page)
    for name in NAMES:
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text(name)), name


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(".js")])
def test_no_markup_is_made_from_text(name: str) -> None:
    banned = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|\.style\b|localStorage|cookie"
    )
    assert not re.search(banned, text(name))
    imported = re.findall(r'from "\./([a-z]+\.js)"', text(name))
    assert set(imported) <= set(NAMES)
