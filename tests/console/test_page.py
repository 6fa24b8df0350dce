"""The console in a real Chromium, over a stub engine: hostile text, scopes, accessibility, phones, lost servers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.console.conftest import PATIENCE, PHONE, OpenPage, go, keep_picture, sign_in
from tests.support.gateways import Live, Threaded, threaded
from tests.support.scripted_engine import Says, ScriptedEngine
from tests.support.stub_engine import StubConfig

expect.set_options(timeout=PATIENCE)

HOSTILE = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
SECTIONS = ["Overview", "Models", "Keys", "Usage", "Guard", "Playground"]
AXE: dict[str, Any] = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}}
GUARD = {"evaluators": [{"kind": "rules", "patterns": {"forbidden": "bomb"}}], "policy": {"risks": ["forbidden"]}}


def hostile_engine() -> ScriptedEngine:
    engine = ScriptedEngine(*[Says(HOSTILE) for _ in range(8)])
    engine.config = StubConfig(model=f"m-{HOSTILE}")
    return engine


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Threaded]:
    state: Path = tmp_path_factory.mktemp("console")
    flags = {"with_store": True, "console": {"enabled": True}, "guard": GUARD, "adapters": {"enabled": True}}
    with threaded(hostile_engine, state, **flags) as running:
        yield running
        assert running.live.store is not None
        running.live.store.close(5.0)


@pytest.fixture
def live(gateway: Threaded) -> Live:
    return gateway.live


def make_key(live: Live, **fields: Any) -> dict[str, Any]:
    response = httpx.post(f"{live.url}/v1/admin/keys", json=fields, headers=live.authorization, timeout=30)
    assert response.status_code == 200, response.text
    made: dict[str, Any] = response.json()
    return made


def not_taken(page: Page) -> None:
    assert page.title() != "taken"
    assert page.locator("main img, main script").count() == 0


def test_names_and_output_are_text_and_nothing_else(live: Live, open_page: OpenPage) -> None:
    make_key(live, name=HOSTILE, scopes=["inference"])
    page = open_page(live.url)
    sign_in(page, live.key)
    expect(page.get_by_role("table", name="Models").first).to_contain_text(HOSTILE)
    not_taken(page)
    go(page, "Models")
    expect(page.get_by_role("button", name=f"Unload m-{HOSTILE}")).to_be_visible()
    not_taken(page)
    go(page, "Keys")
    expect(page.get_by_role("table", name="API keys")).to_contain_text(HOSTILE)
    page.get_by_role("button", name=f"Revoke {HOSTILE}").click()
    expect(page.get_by_role("dialog")).to_contain_text(HOSTILE)
    page.get_by_role("button", name="Cancel").click()
    not_taken(page)
    go(page, "Playground")
    page.get_by_label("Message", exact=True).fill(HOSTILE)
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".turn.assistant .said")).to_have_text(HOSTILE)
    expect(page.locator(".turn.assistant .hint")).to_contain_text("ended by stop")
    not_taken(page)


def test_it_is_accessible_in_light_and_dark_and_on_a_phone(live: Live, open_page: OpenPage) -> None:
    make_key(live, name="reader", tenant="team-a", scopes=["read_only"], quota={"requests_per_minute": 60})
    for scheme, viewport in (("light", None), ("dark", PHONE)):
        options = {"viewport": viewport} if viewport else {}
        # axe is put into the page, which the page's own policy would not let happen.
        page = open_page(live.url, color_scheme=scheme, reduced_motion="reduce", bypass_csp=True, **options)
        found = violations(page, f"{scheme} sign-in")
        sign_in(page, live.key)
        for section in SECTIONS:
            go(page, section)
            for closed in page.locator("section:not([hidden]) details:not([open]) > summary").all():
                closed.click()
            found += violations(page, f"{scheme} {section}")
            assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), (
                section
            )
            assert page.locator("nav a[aria-current=page]").count() == 1
        assert found == []


def violations(page: Page, where: str) -> list[str]:
    result = Axe().run(page, options=AXE).response
    return [f"{where}: {each['id']}: {[node['target'] for node in each['nodes']][:4]}" for each in result["violations"]]


def test_the_keyboard_is_enough(live: Live, open_page: OpenPage) -> None:
    page = open_page(live.url)
    expect(page.get_by_label("API key")).to_be_focused()
    page.keyboard.type(live.key)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Overview")).to_be_focused()
    page.locator("body").press("Shift+Tab")
    expect(page.get_by_role("link", name="Playground")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Playground")).to_be_focused()
    page.get_by_label("Message", exact=True).focus()
    page.keyboard.type("hello")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".turn.assistant .hint")).to_contain_text("ended by")
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    go(page, "Models")
    page.get_by_role("button", name=re.compile("^Unload")).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("button", name=re.compile("^Unload"))).to_be_focused()


def test_models_leave_memory_and_come_back(live: Live, open_page: OpenPage) -> None:
    page = open_page(live.url)
    sign_in(page, live.key)
    go(page, "Models")
    page.get_by_role("button", name=re.compile("^Unload")).click()
    page.get_by_role("dialog").get_by_role("button", name="Unload").click()
    page.get_by_role("button", name=re.compile("^Load m-")).click()
    expect(page.get_by_role("button", name=re.compile("^Unload m-"))).to_be_visible()
    expect(page.locator("#announcer")).to_contain_text("is loaded")


@pytest.mark.parametrize(
    ("scopes", "denied", "expected"),
    [
        (["read_only"], ["Keys"], None),
        (["inference"], ["Overview", "Models", "Keys", "Usage", "Guard"], "403"),
    ],
)
def test_sections_say_what_scope_they_need(
    live: Live, open_page: OpenPage, scopes: list[str], denied: list[str], expected: str | None
) -> None:
    key = make_key(live, name="some", scopes=scopes)["key"]
    page = open_page(live.url, expected=expected)
    sign_in(page, key)
    for section in SECTIONS:
        go(page, section)
        needs = page.locator("section:not([hidden]) > .notice", has_text="needs a key with the scope")
        expect(needs).to_have_count(1 if section in denied else 0)
    if scopes == ["inference"]:
        page.get_by_label("Model, by name").fill(f"m-{HOSTILE}")
        page.get_by_label("Message", exact=True).fill("hello")
        page.get_by_role("button", name="Send").click()
        expect(page.locator(".turn.assistant .hint")).to_contain_text("ended by")


def test_wrong_keys_and_revoked_ones(live: Live, open_page: OpenPage) -> None:
    made = make_key(live, name="short", scopes=["read_only"])
    page = open_page(live.url, expected="401")
    page.get_by_label("API key").fill("sk-wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).not_to_be_empty()
    sign_in(page, made["key"])
    expect(page.locator("#connection")).to_have_text("Live")
    httpx.delete(f"{live.url}/v1/admin/keys/{made['id']}", headers=live.authorization, timeout=30)
    expect(page.get_by_role("alert")).to_have_text("The key does not work any more.")


def test_the_key_stays_where_it_was_said_to(live: Live, open_page: OpenPage) -> None:
    page = open_page(live.url)
    sign_in(page, live.key)
    assert page.evaluate("[sessionStorage.length, localStorage.length, document.cookie]") == [0, 0, ""]
    page.reload()
    page.get_by_label("API key").fill(live.key)
    page.get_by_label("Keep it until this tab is closed").check()
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("navigation", name="Sections").wait_for()
    page.reload()
    page.get_by_role("navigation", name="Sections").wait_for()
    assert live.key not in page.url
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("API key")).to_be_focused()
    assert page.evaluate("sessionStorage.length") == 0


def test_guard_verdicts_and_policy(live: Live, open_page: OpenPage) -> None:
    model = live.engine.config.model
    for content in ("hello", "a bomb"):
        body = {"model": model, "messages": [{"role": "user", "content": content}]}
        httpx.post(f"{live.url}/v1/chat/completions", json=body, headers=live.authorization, timeout=30)
    page = open_page(live.url)
    sign_in(page, live.key)
    go(page, "Guard")
    expect(page.get_by_role("table", name="Verdicts of the guard")).to_contain_text("forbidden")
    expect(page.get_by_role("table", name="Consequences")).to_contain_text("block")
    expect(page.get_by_role("table", name="Evaluators")).to_contain_text("rules")
    expect(page.locator("dl.facts").last).to_contain_text("on_failure")
    keep_picture(page, "guard")


def test_a_server_that_goes_away_is_asked_less_and_less(live: Live, open_page: OpenPage) -> None:
    page = open_page(live.url, expected="Failed to load resource")
    sign_in(page, live.key)
    expect(page.locator("#connection")).to_have_text("Live")
    page.context.set_offline(True)
    expect(page.locator("#connection")).to_contain_text("trying again in 4 s")
    expect(page.locator("#connection")).to_contain_text("trying again in 8 s")
    page.context.set_offline(False)
    expect(page.locator("#connection")).to_have_text("Live")
