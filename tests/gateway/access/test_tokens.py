from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.claims import ClaimRules
from gateway.access.jwks import KeySet, Pace
from gateway.access.tokens import Issuer, JwtIdentity, jwt_identity
from gateway.errors import ApiError
from gateway.observability.metrics import Metrics
from gateway.settings import JwtSettings, SettingsError
from tests.support.issuer import (
    AUDIENCE,
    ISSUER,
    KeyServer,
    claims,
    jwk,
    key_server,
    key_set,
    private_key,
    segment,
    signed,
)
from tests.support.stores import until

ALL = ("RS256", "ES256", "EdDSA")
NEVER = 3600.0


class Published:
    """A source with keys that a test can change."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.document = key_set(*keys)

    async def fetch(self) -> bytes:
        return self.document


@dataclass
class Wall:
    offset: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.offset


@dataclass
class Here:
    """An identity, and what a test can do to it."""

    identity: JwtIdentity
    source: Published
    wall: Wall
    reasons: list[str] = field(default_factory=list)

    def refusal(self, token: bytes) -> ApiError:
        with pytest.raises(ApiError) as refused:
            self.identity.identify_token(token)
        return refused.value

    def id_of(self, token: bytes) -> str:
        principal = self.identity.identify_token(token)
        assert principal is not None
        return principal.id


def here(*keys: dict[str, Any], max_remembered: int = 100, refresh: float = NEVER, **changes: Any) -> Here:
    settings = JwtSettings(**{"issuer": ISSUER, "audience": AUDIENCE, **changes})
    source = Published(*keys)
    key_set_ = KeySet(settings.issuer, source, settings.algorithms, Pace(refresh, NEVER, refresh, NEVER))
    reasons: list[str] = []
    wall = Wall()
    issuer = Issuer(settings.issuer, settings.algorithms, ClaimRules(settings), key_set_)
    identity = JwtIdentity([issuer], on_refused=reasons.append, wall=wall, max_remembered=max_remembered)
    return Here(identity, source, wall, reasons)


KEYS = [jwk("RS256", "one"), jwk("ES256", "two"), jwk("EdDSA", "three")]
KID_OF = {"RS256": "one", "ES256": "two", "EdDSA": "three"}


@pytest.fixture
async def us() -> AsyncIterator[Here]:
    us = here(*KEYS)
    await us.identity.start()
    yield us
    await us.identity.stop()


def assert_invalid(error: ApiError, code: str = "invalid_token") -> None:
    assert (error.status, error.code, error.body.type, error.body.param) == (401, code, "invalid_request_error", None)
    assert 'error="invalid_token"' in dict(error.headers())[b"www-authenticate"].decode()


# -- tokens that are good ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALL)
async def test_a_good_token(us: Here, algorithm: str) -> None:
    token = signed(claims(exp=int(time.time()) + 60), algorithm=algorithm, kid=KID_OF[algorithm])
    principal = us.identity.identify_token(token)
    assert principal is not None
    assert principal.id.startswith("jwt-")
    assert principal.expires_at is not None
    assert principal is us.identity.identify_token(token)
    assert us.reasons == []


async def test_another_library_s_token(us: Here) -> None:
    token = jwt.encode(claims(), private_key("ES256", "two"), "ES256", {"kid": "two"}).encode()
    assert us.id_of(token) == us.id_of(signed(claims()))


async def test_without_a_kid_the_one_key_of_the_algorithm(us: Here) -> None:
    assert us.id_of(signed(claims(), header={"alg": "RS256"}))
    two = here(*KEYS, jwk("RS256", "four"))
    await two.identity.start()
    assert_invalid(two.refusal(signed(claims(), header={"alg": "RS256"})))
    assert two.id_of(signed(claims(), kid="four"))
    await two.identity.stop()


@pytest.mark.parametrize("token", [b"", b"abc", b"a.b", b"a.b.c.d", b"a.b.c.d.e", b"sk-abc-0123456789"])
async def test_other_kinds_of_token_are_left_to_others(us: Here, token: bytes) -> None:
    assert us.identity.identify_token(token) is None


async def test_leeway(us: Here) -> None:
    now = int(time.time())
    assert us.id_of(signed(claims(exp=now - 20)))
    assert us.id_of(signed(claims(nbf=now + 20, iat=now + 20)))


# -- U14 to U31 -------------------------------------------------------------------------------------------------------


def unsigned(**header: object) -> bytes:
    return segment({"kid": "one", "typ": "JWT", **header}) + b"." + segment(claims()) + b"."


def hs256(kid: str, secret: bytes) -> bytes:
    """Signed with a secret that everybody knows: the public key."""
    signing_input = segment({"alg": "HS256", "kid": kid}) + b"." + segment(claims())
    return signing_input + b"." + segment(hmac.digest(secret, signing_input, hashlib.sha256))


def public_pem(algorithm: str, kid: str, encoding: Encoding = Encoding.PEM) -> bytes:
    return private_key(algorithm, kid).public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)


def respelled(token: bytes, how: str) -> bytes:
    header, payload, signature = token.split(b".")
    match how:
        case "padding":
            return b".".join(part + b"=" * (-len(part) % 4) for part in (header, payload + b"=", signature))
        case "newline":
            return b".".join([header, payload[:8] + b"\n" + payload[8:], signature])
        case _:
            standard = base64.b64encode(base64.urlsafe_b64decode(signature + b"==")).rstrip(b"=")
            return b".".join([header, payload, standard + b"+/"])


def now() -> int:
    return int(time.time())


#: Test id, the token (made when its test runs: a long session must not outlive it), what operators are told.
REFUSED: list[tuple[str, Callable[[], bytes], str]] = [
    ("U14 none", lambda: unsigned(alg="none"), "form"),
    ("U14 None", lambda: unsigned(alg="None"), "form"),
    ("U14 none with a signature", lambda: unsigned(alg="none") + b"AAAA", "algorithm"),
    ("U14 NONE with a signature", lambda: unsigned(alg="NONE") + b"AAAA", "algorithm"),
    ("U14 empty signature", lambda: signed(claims()).rsplit(b".", 1)[0] + b".", "form"),
    ("U15 HS256 with the RSA key as PEM", lambda: hs256("one", public_pem("RS256", "one")), "algorithm"),
    ("U15 HS256 with the RSA key as DER", lambda: hs256("one", public_pem("RS256", "one", Encoding.DER)), "algorithm"),
    ("U15 HS256 with the EC key", lambda: hs256("two", public_pem("ES256", "two")), "algorithm"),
    ("U16 RS256 claimed for an EC key",
     lambda: signed(claims(), algorithm="ES256", kid="two", header={"alg": "RS256", "kid": "two"}), "key"),
    ("U16 ES256 claimed for an RSA key", lambda: signed(claims(), header={"alg": "ES256", "kid": "one"}), "key"),
    ("U16 RS512", lambda: signed(claims(), header={"alg": "RS512", "kid": "one"}), "algorithm"),
    ("U16 another key's signature", lambda: signed(claims(), key=private_key("RS256", "stranger")), "signature"),
    ("U17 unknown kid", lambda: signed(claims(), kid="unknown"), "key"),
    ("U18 a path", lambda: signed(claims(), header={"alg": "RS256", "kid": "../../etc/passwd"}), "key"),
    ("U18 an absolute path", lambda: signed(claims(), header={"alg": "RS256", "kid": "/dev/null"}), "key"),
    ("U18 SQL", lambda: signed(claims(), header={"alg": "RS256", "kid": "' OR 1=1 --"}), "key"),
    ("U18 a URL", lambda: signed(claims(), header={"alg": "RS256", "kid": "https://evil.example/"}), "key"),
    ("U18 10 KB", lambda: signed(claims(), header={"alg": "RS256", "kid": "x" * 10_240}), "form"),
    ("U18 1 KB", lambda: signed(claims(), header={"alg": "RS256", "kid": "x" * 1024}), "header"),
    ("U18 a number", lambda: signed(claims(), header={"alg": "RS256", "kid": 1}), "header"),
    ("U18 a list", lambda: signed(claims(), header={"alg": "RS256", "kid": ["one"]}), "header"),
    ("U20 crit", lambda: signed(claims(), header={"alg": "RS256", "kid": "one", "crit": ["x"], "x": 1}), "header"),
    ("U20 crit b64",
     lambda: signed(claims(), header={"alg": "RS256", "kid": "one", "crit": ["b64"], "b64": False}), "header"),
    ("U20 b64", lambda: signed(claims(), header={"alg": "RS256", "kid": "one", "b64": False}), "header"),
    ("U22 nbf", lambda: signed(claims(nbf=now() + 3600)), "not_yet"),
    ("U22 iat", lambda: signed(claims(iat=now() + 3600)), "not_yet"),
    ("no exp", lambda: signed(claims(exp=None)), "time"),
    ("exp as text", lambda: signed(claims(exp=str(now() + 60))), "time"),
    ("exp beyond a double",
     lambda: signed(json.dumps(claims(exp=1)).replace('"exp": 1', '"exp": 1e999').encode()), "time"),
    ("no sub", lambda: signed(claims(sub=None)), "subject"),
    ("U24 wrong aud", lambda: signed(claims(aud="other")), "audience"),
    ("U24 no aud", lambda: signed(claims(aud=None)), "audience"),
    ("U24 a prefix of us", lambda: signed(claims(aud=AUDIENCE[:-1])), "audience"),
    ("U24 we are a prefix", lambda: signed(claims(aud=AUDIENCE + "-dev")), "audience"),
    ("U24 a list without us", lambda: signed(claims(aud=["a", "b"])), "audience"),
    ("U25 a prefix of the issuer", lambda: signed(claims(iss=ISSUER[:-1])), "issuer"),
    ("U25 more than the issuer", lambda: signed(claims(iss=ISSUER + "/")), "issuer"),
    ("U25 a list with the issuer", lambda: signed(claims(iss=[ISSUER])), "issuer"),
    ("U25 no issuer", lambda: signed(claims(iss=None)), "issuer"),
    ("U28 two subjects", lambda: signed(json.dumps(claims()).replace("{", '{"sub": "admin", ', 1).encode()), "form"),
    ("U30 a key of another environment", lambda: signed(claims(), kid="test-environment"), "key"),
    ("U31 padding", lambda: respelled(signed(claims()), "padding"), "form"),
    ("U31 newline", lambda: respelled(signed(claims()), "newline"), "form"),
    ("U31 standard alphabet", lambda: respelled(signed(claims()), "standard"), "form"),
    ("too long", lambda: signed(claims(pad="x" * 8192)), "form"),
]  # fmt: skip


@pytest.mark.parametrize(("token", "reason"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
async def test_tokens_that_are_not_believed(us: Here, token: Callable[[], bytes], reason: str) -> None:
    error = us.refusal(token())
    assert_invalid(error)
    assert us.reasons == [reason]
    # A caller is not told why.
    assert error.payload() == us.refusal(b"not.a.token").payload()


async def test_u14_the_signature_of_another_token(us: Here) -> None:
    good, other = signed(claims()), signed(claims(sub="another"))
    assert_invalid(us.refusal(good.rsplit(b".", 1)[0] + b"." + other.rsplit(b".", 1)[1]))


async def test_u16_an_algorithm_that_the_issuer_may_not_use() -> None:
    us = here(*KEYS, algorithms=["ES256"])
    await us.identity.start()
    assert us.id_of(signed(claims(), algorithm="ES256", kid="two"))
    assert_invalid(us.refusal(signed(claims())))
    assert us.reasons == ["algorithm"]
    await us.identity.stop()


async def test_u19_nothing_is_fetched_for_a_token(us: Here) -> None:
    """Headers that say where the key is: a key of the attacker's own, published where we would see it being asked."""
    async with key_server() as sink:
        sink.publish(jwk("RS256", "evil"))
        for header in (
            {"jku": sink.url()},
            {"x5u": sink.url()},
            {"jwk": jwk("RS256", "evil")},
            {"x5c": ["MIIB"]},
            {"jku": sink.url(), "kid": "one"},
            {"kid": sink.url()},
        ):
            evil = private_key("RS256", "evil")
            assert_invalid(us.refusal(signed(claims(), header={"alg": "RS256", "kid": "evil", **header}, key=evil)))
            # With the right key they change nothing.
            if "kid" not in header:
                assert us.id_of(signed(claims(), header={"alg": "RS256", "kid": "one", **header}))
        await asyncio.sleep(0.05)
        assert sink.asked == []


async def test_u21_expired(us: Here) -> None:
    error = us.refusal(signed(claims(exp=int(time.time()) - 31)))
    assert_invalid(error, "token_expired")
    assert us.reasons == ["expired"]


async def test_u26_a_scope_that_is_none_is_no_scope(us: Here) -> None:
    for scope in (7, [["admin"]], ["inference admin"], "аdmin", {"admin": 1}):
        principal = us.identity.identify_token(signed(claims(scope=scope)))
        assert principal is not None
        assert principal.scopes == frozenset()


async def test_u29_tokens_that_begin_alike(us: Here) -> None:
    tokens = [signed(claims(sub=f"subject-{number}", pad="same")) for number in range(3)]
    assert len({token[:40] for token in tokens}) == 1
    assert len({us.id_of(token) for token in tokens}) == 3
    # And once more, now that they are remembered.
    assert len({us.id_of(token) for token in tokens}) == 3


async def test_two_issuers_do_not_sign_for_each_other() -> None:
    ours, theirs = here(jwk("RS256", "one")), here(jwk("RS256", "evil"), issuer="https://other.example")
    both = JwtIdentity([*ours.identity._issuers.values(), *theirs.identity._issuers.values()])
    await both.start()
    good = both.identify_token(signed(claims()))
    other = both.identify_token(signed(claims(iss="https://other.example"), kid="evil"))
    assert good is not None
    assert other is not None
    assert good.id != other.id
    for kid, issuer in (("evil", ISSUER), ("one", "https://other.example")):
        with pytest.raises(ApiError) as refused:
            both.identify_token(signed(claims(iss=issuer), kid=kid))
        assert_invalid(refused.value)
    await both.stop()


# -- one mutated byte -------------------------------------------------------------------------------------------------

GOOD = {algorithm: signed(claims(exp=2**32), algorithm=algorithm, kid=KID_OF[algorithm]) for algorithm in ALL}


@pytest.fixture(scope="module")
def ready() -> Here:
    """Has its keys, which nobody refreshes."""
    us = here(*KEYS)

    async def fetch() -> None:
        await us.identity.start()
        await us.identity.stop()

    asyncio.run(fetch())
    return us


def believed(us: Here, token: bytes) -> bool:
    try:
        return us.identity.identify_token(token) is not None
    except ApiError as error:
        if error.status != 401:
            raise
        return False


@given(data=st.data(), algorithm=st.sampled_from(ALL))
def test_one_mutated_byte_never_verifies(ready: Here, data: st.DataObject, algorithm: str) -> None:
    good = GOOD[algorithm]
    assert believed(ready, good)
    place = data.draw(st.integers(0, len(good) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != good[place]))
    assert not believed(ready, good[:place] + bytes([byte]) + good[place + 1 :])


@given(data=st.data(), algorithm=st.sampled_from(ALL))
def test_one_byte_more_or_less_never_verifies(ready: Here, data: st.DataObject, algorithm: str) -> None:
    good = GOOD[algorithm]
    place = data.draw(st.integers(0, len(good) - 1))
    more = data.draw(st.binary(min_size=1, max_size=1))
    assert not believed(ready, good[:place] + more + good[place:]) or more == good[place : place + 1]
    assert not believed(ready, good[:place] + good[place + 1 :])


@pytest.mark.parametrize("algorithm", ALL)
def test_every_other_last_character_of_the_signature(ready: Here, algorithm: str) -> None:
    """Where base64 has bits to spare."""
    good = GOOD[algorithm]
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    assert [chr(last) for last in alphabet if believed(ready, good[:-1] + bytes([last]))] == [chr(good[-1])]


_NAMES = st.sampled_from(["alg", "kid", "typ", "iss", "aud", "exp", "sub"])
_VALUES: st.SearchStrategy[Any] = st.sampled_from(
    ["RS256", "none", "one", "JWT", ISSUER, AUDIENCE, 2**32, None, "", [], {}, 1.5]
)
_PARTS = st.dictionaries(_NAMES, _VALUES)


@given(_PARTS, _PARTS, st.binary(max_size=300))
def test_invented_tokens_are_401_and_nothing_else(
    ready: Here, header: dict[str, Any], payload: dict[str, Any], signature: bytes
) -> None:
    assert not believed(ready, b".".join([segment(header), segment(payload), segment(signature)]))


# -- what is remembered -----------------------------------------------------------------------------------------------


async def test_a_remembered_token_expires(us: Here) -> None:
    token = signed(claims(exp=int(time.time()) + 100))
    assert us.id_of(token)
    us.wall.offset = 131
    assert_invalid(us.refusal(token), "token_expired")
    us.wall.offset = 0
    assert us.id_of(token)


async def test_a_remembered_token_is_not_good_before_its_time(us: Here) -> None:
    """The clock is set back."""
    token = signed(claims())
    assert us.id_of(token)
    us.wall.offset = -3600
    assert_invalid(us.refusal(token))


async def test_u30_a_remembered_token_goes_with_its_key() -> None:
    us = here(*KEYS, refresh=0.02)
    await us.identity.start()
    token, other = signed(claims()), signed(claims(), algorithm="ES256", kid="two")
    assert us.id_of(token) == us.id_of(other)
    us.source.document = key_set(*KEYS[1:])
    await until(lambda: not believed(us, token))
    assert us.id_of(other)
    await us.identity.stop()


async def test_u30_a_key_that_takes_the_name_of_another() -> None:
    us = here(jwk("RS256", "one"), refresh=0.02)
    await us.identity.start()
    token = signed(claims())
    assert us.id_of(token)
    us.source.document = key_set(jwk("RS256", "stranger", kid="one"))
    await until(lambda: not believed(us, token))
    assert us.id_of(signed(claims(), key=private_key("RS256", "stranger")))
    await us.identity.stop()


async def test_memory_is_bounded() -> None:
    us = here(*KEYS, max_remembered=5)
    await us.identity.start()
    tokens = [signed(claims(sub=f"s{number}"), algorithm="EdDSA", kid="three") for number in range(20)]
    assert len({us.id_of(token) for token in tokens}) == 20
    assert len(us.identity._remembered) == 5
    assert us.id_of(tokens[0])
    assert len(us.identity._remembered) == 5
    await us.identity.stop()


async def test_what_is_refused_is_not_remembered(us: Here) -> None:
    for _ in range(3):
        us.refusal(signed(claims(aud="other")))
    assert us.reasons == ["audience"] * 3
    assert not us.identity._remembered


# -- keys that are away -----------------------------------------------------------------------------------------------


async def test_before_any_key_was_fetched_it_is_503_for_what_could_be_good() -> None:
    us = here(*KEYS)
    error = us.refusal(signed(claims()))
    assert (error.status, error.code) == (503, "auth_unavailable")
    assert dict(error.headers())[b"retry-after"]
    # What no key could make good is wrong at any time.
    assert us.refusal(unsigned(alg="none")).status == 401
    assert us.refusal(signed(claims(iss="https://nobody.example"))).status == 401
    assert us.identity.degraded() == ("jwks",)


async def test_an_error_of_ours_lets_nobody_in(us: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken verifier is a 500, whoever asks."""

    def broken(*_: object, **__: object) -> bytes:
        raise RuntimeError("the library is broken")

    for issuer in us.identity._issuers.values():
        monkeypatch.setattr(issuer._signatures, "decode", broken)
    for token in (signed(claims()), signed(claims(), key=private_key("RS256", "stranger"))):
        with pytest.raises(RuntimeError):
            us.identity.identify_token(token)


@pytest.mark.parametrize("claimed", ["ES256", "EdDSA"])
async def test_u16_our_record_of_a_key_says_its_algorithm(
    us: Here, claimed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if a wrong key were found for a token, the token would have no say in what it is verified by."""
    for issuer in us.identity._issuers.values():
        key = issuer.keys.find("one", "RS256")
        monkeypatch.setattr(issuer.keys, "find", lambda *_, key=key: key)
    assert_invalid(us.refusal(signed(claims(), header={"alg": claimed, "kid": "one"})))
    assert us.reasons == ["signature"]


async def test_a_library_that_reads_something_else(us: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    for issuer in us.identity._issuers.values():
        monkeypatch.setattr(issuer._signatures, "decode", lambda *_: b'{"sub":"admin"}')
    assert_invalid(us.refusal(signed(claims())))


# -- as configured, with a real endpoint ------------------------------------------------------------------------------


def configured(server: KeyServer, **changes: Any) -> JwtSettings:
    return JwtSettings(**{"issuer": ISSUER, "audience": AUDIENCE, "jwks_url": server.url(), **changes})


async def test_the_whole_way_with_a_real_endpoint() -> None:
    metrics = Metrics()
    async with key_server() as server:
        server.publish(*KEYS)
        identity = jwt_identity([configured(server)], metrics)
        await identity.start()
        assert identity.degraded() == ()
        assert identity.identify_token(signed(claims())) is not None
        for number in range(1000):
            with pytest.raises(ApiError):
                identity.identify_token(signed(claims(), header={"alg": "RS256", "kid": f"u17-{number}"}))
        await asyncio.sleep(0.05)
        assert server.asked == ["/jwks"]
        await identity.stop()
        await identity.stop()
    text = metrics.exposition()[1].decode()
    assert 'sluice_jwks_fetches_total{outcome="good"} 1.0' in text
    assert f'sluice_jwks_keys{{issuer="{ISSUER}"}} 3.0' in text
    assert 'sluice_jwt_refusals_total{reason="key"} 1000.0' in text


async def test_an_endpoint_that_is_down_does_not_hinder_the_start() -> None:
    async with key_server() as server:
        good = configured(server)
        bad = configured(server, issuer="https://down.example", jwks_url=server.url("/nothing"))
        server.publish(*KEYS)
        identity = jwt_identity([good, bad], Metrics())
        await identity.start()
        assert identity.degraded() == ("jwks",)
        assert identity.identify_token(signed(claims())) is not None
        with pytest.raises(ApiError) as away:
            identity.identify_token(signed(claims(iss="https://down.example")))
        assert away.value.status == 503
        await identity.stop()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"jwks_url": "http://issuer.example/keys"}, "jwt.0.jwks_url"),
        ({"jwks_url": "file:///etc/passwd"}, "jwt.0.jwks_url"),
        ({"jwks_url": None, "issuer": "accounts"}, "jwt.0.issuer"),
        ({"max_stale": 10, "refresh_interval": 60}, "jwt.0.max_stale"),
        ({"tenant": "a b"}, "jwt.0.tenant"),
    ],
)
def test_settings_that_cannot_work(changes: dict[str, Any], named: str) -> None:
    settings = JwtSettings(**{"issuer": ISSUER, "audience": AUDIENCE, **changes})
    with pytest.raises(SettingsError, match=named):
        jwt_identity([settings], Metrics())


def test_one_issuer_twice() -> None:
    settings = JwtSettings(issuer=ISSUER, audience=AUDIENCE)
    with pytest.raises(SettingsError, match="twice"):
        jwt_identity([settings, settings], Metrics())
