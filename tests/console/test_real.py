"""The console on the session's real engine: what moves on the page is what vLLM does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect

from gateway.store.usage import UsageRepository
from gateway.usage.prices import PriceList
from tests.console.conftest import PATIENCE, PHONE, OpenPage, go, keep_picture, sign_in
from tests.support.gateways import Live, Threaded, listen
from tests.support.rows import settled
from tests.support.shared_engine import SharedEngine

pytestmark = pytest.mark.engine
expect.set_options(timeout=PATIENCE)

MODEL = "smollm2-135m-instruct"
#: What the model, once it has begun, says until it is stopped.
LINE = "the river flows, "


@pytest.fixture
def live(real: Threaded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Another gateway over the same engine, with a console and a store."""
    engine: Any = SharedEngine(real.live.engine)

    async def begin() -> Live:
        live = await listen(engine, tmp_path_factory.mktemp("console"), with_store=True, console={"enabled": True})
        await live.gateway.start_engine()
        return live

    live = real.run(begin())
    yield live
    real.run(live.gateway.stop())
    assert live.store is not None
    live.store.close(5.0)


def at_rest(live: Live) -> bool:
    state = live.engine.state()
    return state.running == state.waiting == 0 and live.metric("sluice_requests_in_flight") == 0


def test_a_session_from_the_key_to_the_last_token(live: Live, open_page: OpenPage) -> None:
    assert live.store is not None
    rows = [
        settled(f"r-{n}", ts=time.time(), received=time.time(), tenant=tenant, model=MODEL)
        for n, tenant in enumerate(("team-a", "team-b"))
    ]
    assert UsageRepository(live.store.database).insert(rows, PriceList({})) == []
    page = open_page(live.url)
    sign_in(page, live.key)

    go(page, "Playground")
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Most tokens").fill("3500")
    page.get_by_label("Message", exact=True).fill(f"Repeat this line a thousand times: {LINE * 5}")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".turn.assistant .said")).not_to_be_empty()
    keep_picture(page, "playground")

    # Sections do not end a stream: the figures move while it runs.
    go(page, "Overview")
    value = page.locator(".card .value")
    expect(value.nth(3)).to_contain_text("1 of")
    expect(value.first).not_to_have_text("0.0 tokens/s")
    expect(page.get_by_role("img", name="Tokens per second, last minute")).to_be_visible()
    keep_picture(page, "overview")

    go(page, "Playground")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".turn.assistant .hint")).to_contain_text("stopped after")
    deadline = time.monotonic() + 30
    while not at_rest(live) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert at_rest(live)
    assert [entry.outcome for entry in live.ledger.entries if hasattr(entry, "outcome")] == ["cancelled"]

    page.get_by_label("Most tokens").fill("12")
    page.get_by_label("Message", exact=True).fill("Say hi.")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".turn.assistant .hint").last).to_contain_text("12 tokens")
    go(page, "Overview")
    expect(value.nth(3)).to_contain_text("0 of")

    go(page, "Keys")
    keys = page.locator("section.keys")
    keys.get_by_text("Make a key").click()
    keys.get_by_label("Name", exact=True).fill("batch jobs")
    keys.get_by_label("Tenant", exact=True).fill("team-a")
    keys.get_by_label("Requests per minute").fill("2")
    keys.get_by_role("button", name="Make the key").click()
    secret = page.get_by_label("The key", exact=True).input_value()
    page.get_by_role("button", name="I have stored it").click()
    expect(page.locator(".secret")).to_have_count(0)
    assert secret not in page.content()
    assert ask(live, secret) == 200
    table = page.get_by_role("table", name="API keys")
    expect(table).to_contain_text("2 req/min")
    keep_picture(page, "keys")

    page.get_by_role("button", name="Rotate batch jobs").click()
    page.get_by_role("dialog").get_by_role("button", name="Rotate").click()
    rotated = page.get_by_label("The key", exact=True).input_value()
    page.get_by_role("button", name="I have stored it").click()
    assert rotated != secret
    assert (ask(live, secret), ask(live, rotated)) == (401, 200)
    page.get_by_role("button", name="Revoke batch jobs").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(table).to_have_count(0)
    assert ask(live, rotated) == 401

    go(page, "Usage")
    expect(page.get_by_role("table", name="Usage")).to_contain_text("team-b")
    keep_picture(page, "usage")
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    for section in ("Overview", "Models", "Keys", "Usage", "Guard", "Playground"):
        go(page, section)
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        keep_picture(page, f"phone-{section.lower()}")
    assert live.ledger.violations == []


def ask(live: Live, key: str) -> int:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.get(f"{live.url}/v1/models", headers=headers, timeout=30).status_code
