"""Rules: patterns of the operator, secrets and personal data by libraries that know their forms."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cache
from typing import Final

import phonenumbers
import regex
from detect_secrets.plugins.artifactory import ArtifactoryDetector
from detect_secrets.plugins.aws import AWSKeyDetector
from detect_secrets.plugins.azure_storage_key import AzureStorageKeyDetector
from detect_secrets.plugins.base import RegexBasedDetector
from detect_secrets.plugins.basic_auth import BasicAuthDetector
from detect_secrets.plugins.discord import DiscordBotTokenDetector
from detect_secrets.plugins.github_token import GitHubTokenDetector
from detect_secrets.plugins.gitlab_token import GitLabTokenDetector
from detect_secrets.plugins.jwt import JwtTokenDetector
from detect_secrets.plugins.mailchimp import MailchimpDetector
from detect_secrets.plugins.npm import NpmDetector
from detect_secrets.plugins.openai import OpenAIDetector
from detect_secrets.plugins.private_key import PrivateKeyDetector
from detect_secrets.plugins.pypi_token import PypiTokenDetector
from detect_secrets.plugins.sendgrid import SendGridDetector
from detect_secrets.plugins.slack import SlackDetector
from detect_secrets.plugins.square_oauth import SquareOAuthDetector
from detect_secrets.plugins.stripe import StripeDetector
from detect_secrets.plugins.telegram_token import TelegramBotTokenDetector
from detect_secrets.plugins.twilio import TwilioKeyDetector
from stdnum import iban, luhn
from stdnum.us import ssn

from gateway.guardian.verdicts import Content, Finding, GuardFailure, Span
from gateway.guardian.views import views_of

SECRETS: Final = "secrets"
PII: Final = "pii"
#: Longer texts are searched on a thread.
INLINE_CHARACTERS: Final = 4096
#: Seconds that one pattern may take over one text.
PATTERN_SECONDS: Final = 0.5

_EMAIL: Final = re.compile(r"[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}")
_CARD: Final = re.compile(r"(?<![\d.])(?:\d[ -]?){12,18}\d(?![\d.])")
_IBAN: Final = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_SSN: Final = re.compile(r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])")
_DIGITS: Final = re.compile(r"\D")

_DETECTORS: Final[tuple[type[RegexBasedDetector], ...]] = (
    ArtifactoryDetector,
    AWSKeyDetector,
    AzureStorageKeyDetector,
    BasicAuthDetector,
    DiscordBotTokenDetector,
    GitHubTokenDetector,
    GitLabTokenDetector,
    JwtTokenDetector,
    MailchimpDetector,
    NpmDetector,
    OpenAIDetector,
    PrivateKeyDetector,
    PypiTokenDetector,
    SendGridDetector,
    SlackDetector,
    SquareOAuthDetector,
    StripeDetector,
    TelegramBotTokenDetector,
    TwilioKeyDetector,
)

Finder = Callable[[str], Iterable[Span]]


@dataclass(frozen=True, slots=True)
class Rule:
    """What one risk is found by. ``hidden``: it is looked for in every view of the text, not only as it stands."""

    find: Finder
    hidden: bool


class Rules:
    """See :class:`gateway.guardian.verdicts.Evaluator`: score 1 where a rule matches, else 0.

    ``patterns`` are regular expressions by the name of their risk, read without regard to case.
    """

    window: int | None = None
    learned = False

    def __init__(
        self, name: str, patterns: Mapping[str, str], *, secrets: bool, pii: bool, worker: Executor | None = None
    ) -> None:
        self.name = name
        self._worker = worker
        self._rules = {risk: Rule(_finder(pattern), hidden=True) for risk, pattern in patterns.items()}
        if secrets:
            self._rules[SECRETS] = Rule(find_secrets, hidden=True)
        if pii:
            # Turned around or shifted by 13 letters any digits and letters can look like a number or an address.
            self._rules[PII] = Rule(find_pii, hidden=False)
        self.risks = frozenset(self._rules)

    async def evaluate(self, content: Content, risks: Sequence[str]) -> Mapping[str, Finding]:
        """See :class:`gateway.guardian.verdicts.Evaluator`."""
        text = content.judged
        if len(text) <= INLINE_CHARACTERS:
            return self._search(text, risks)
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._search, text, risks)

    async def close(self) -> None:
        """See :class:`gateway.guardian.verdicts.Evaluator`."""

    def _search(self, text: str, risks: Sequence[str]) -> dict[str, Finding]:
        found: dict[str, Finding] = {}
        ways: tuple[str, ...] | None = None
        for risk in risks:
            rule = self._rules[risk]
            found_at = tuple(rule.find(text))
            hit = bool(found_at)
            # What matches without taking a character (a look ahead) stands nowhere: it cannot be taken out.
            spans = found_at if all(start < end for start, end in found_at) else ()
            if not hit and rule.hidden:
                ways = views_of(text).all() if ways is None else ways
                hit = any(next(iter(rule.find(way)), None) is not None for way in ways if way != text)
            found[risk] = Finding(1.0 if hit else 0.0, spans=spans)
        return found


def _finder(pattern: str) -> Finder:
    compiled = regex.compile(pattern, regex.IGNORECASE)

    def find(text: str) -> list[Span]:
        try:
            return [match.span() for match in compiled.finditer(text, timeout=PATTERN_SECONDS)]
        except TimeoutError:
            raise GuardFailure("slow_pattern") from None

    return find


@cache
def _secret_patterns() -> tuple[re.Pattern[str], ...]:
    return tuple(pattern for detector in _DETECTORS for pattern in detector().denylist)


def find_secrets(text: str) -> Iterator[Span]:
    """Where keys, tokens and passwords in addresses stand, by the forms that detect-secrets knows."""
    for pattern in _secret_patterns():
        for match in pattern.finditer(text):
            yield match.span()


def find_pii(text: str) -> Iterator[Span]:
    """Where e-mail addresses, phone numbers, card and account numbers and US social security numbers stand."""
    for match in _EMAIL.finditer(text):
        yield match.span()
    for pattern, is_one in _NUMBERS:
        yield from (match.span() for match in pattern.finditer(text) if is_one(match[0]))
    for number in phonenumbers.PhoneNumberMatcher(text, "US", leniency=phonenumbers.Leniency.VALID):
        yield number.start, number.end


_NUMBERS: Final[tuple[tuple[re.Pattern[str], Callable[[str], bool]], ...]] = (
    (_CARD, lambda text: bool(luhn.is_valid(_DIGITS.sub("", text)))),
    (_IBAN, lambda text: bool(iban.is_valid(text))),
    (_SSN, lambda text: bool(ssn.is_valid(text))),
)
