"""An OpenAI-compatible moderation endpoint elsewhere, as an evaluator.

Source: OpenAI's API reference, "Moderations".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import httpx
import orjson

from gateway.guardian.verdicts import Content, Finding, GuardFailure
from gateway.settings.section import SettingsError

if TYPE_CHECKING:
    from gateway.settings.guard import ModerationSettings

MAX_ANSWER_BYTES: Final = 256 * 1024
MAX_CONNECTIONS: Final = 32
MAX_SECONDS: Final = 600.0

#: What an endpoint flags without saying for what: no category of OpenAI's, so it counts as harm.
UNNAMED: Final = "unnamed"

#: OpenAI's categories, and the risk of ours that each one shows.
CATEGORIES: Final[Mapping[str, str]] = {
    "harassment": "social_bias",
    "harassment/threatening": "violence",
    "hate": "social_bias",
    "hate/threatening": "violence",
    "illicit": "unethical_behavior",
    "illicit/violent": "violence",
    "self-harm": "harm",
    "self-harm/intent": "harm",
    "self-harm/instructions": "harm",
    "sexual": "sexual_content",
    "sexual/minors": "sexual_content",
    "violence": "violence",
    "violence/graphic": "violence",
}
#: The other way round: which risk of ours shows a category, where one does without saying more than it knows.
CATEGORY_RISKS: Final[Mapping[str, str | None]] = {
    **dict.fromkeys(CATEGORIES),
    "harassment": "social_bias",
    "hate": "social_bias",
    "illicit": "unethical_behavior",
    "sexual": "sexual_content",
    "violence": "violence",
}


class ModerationEndpoint:
    """See :class:`gateway.guardian.verdicts.Evaluator`. Its risks are OpenAI's categories and the risks they show; any
    category also counts as ``harm``.
    """

    learned = True
    risks = frozenset((*CATEGORIES, *CATEGORIES.values(), "harm"))

    def __init__(self, name: str, url: str, key: str | None, model: str | None, window: int) -> None:
        self.name = name
        self.window: int | None = window
        self._url = url.rstrip("/") + "/moderations"
        self._model = model
        # What is compressed could be larger than its bound before anybody counts it.
        headers = {"accept-encoding": "identity", **({} if key is None else {"authorization": f"Bearer {key}"})}
        # No redirects: the key is for this address. Who asks has a bound of its own, which is nearly always shorter.
        self._client = httpx.AsyncClient(
            headers=headers,
            timeout=MAX_SECONDS,
            trust_env=False,
            limits=httpx.Limits(max_connections=MAX_CONNECTIONS),
        )

    @classmethod
    def of_settings(cls, settings: ModerationSettings) -> ModerationEndpoint:
        """Raises :class:`SettingsError` for a key file that cannot be read."""
        key = None
        if settings.api_key_file is not None:
            try:
                key = settings.api_key_file.read_text("utf-8").strip()
            except OSError as error:
                raise SettingsError(f"guard.evaluators: {error.strerror}: {settings.api_key_file}") from error
        return cls(settings.name, settings.url, key, settings.model, settings.window)

    async def evaluate(self, content: Content, risks: Sequence[str]) -> Mapping[str, Finding]:
        """See :class:`gateway.guardian.verdicts.Evaluator`. One question for all risks."""
        scores = await self._ask(content.judged)
        return {risk: Finding(_score(scores, risk)) for risk in risks}

    async def close(self) -> None:
        """See :class:`gateway.guardian.verdicts.Evaluator`."""
        await self._client.aclose()

    async def _ask(self, text: str) -> Mapping[str, float]:
        # A lone half of a surrogate pair is no text that could be sent.
        text = text.encode("utf-8", "replace").decode()
        body = {"input": text, **({} if self._model is None else {"model": self._model})}
        try:
            async with self._client.stream("POST", self._url, json=body) as answer:
                if answer.status_code != 200:
                    raise GuardFailure("refused", f"status {answer.status_code}")
                return _read(await _bounded(answer))
        except httpx.HTTPError as error:
            raise GuardFailure("unreachable", f"{type(error).__name__}: {error}") from error


async def _bounded(answer: httpx.Response) -> bytes:
    body = b""
    async for part in answer.aiter_raw():
        body += part
        if len(body) > MAX_ANSWER_BYTES:
            raise GuardFailure("nonsense", "an answer beyond all bounds")
    return body


def _read(body: bytes) -> Mapping[str, float]:
    """The category scores. Raises :class:`GuardFailure` for anything that is not an answer."""
    try:
        result = orjson.loads(body)["results"][0]
        scores = {name: _number(value) for name, value in result["category_scores"].items() if value is not None}
        flagged = {name for name, value in result["categories"].items() if value is True}
        if result.get("flagged") is True and not flagged:
            flagged = {UNNAMED}
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise GuardFailure("nonsense", f"not a moderation: {type(error).__name__}") from None
    if not scores:
        raise GuardFailure("nonsense", "no scores")
    # What the endpoint flags by thresholds of its own is flagged here too.
    return {**scores, **{name: max(0.5, scores.get(name, 0.0)) for name in flagged}}


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise GuardFailure("nonsense", "a score that is no number")
    return Finding(float(value)).score


def _score(scores: Mapping[str, float], risk: str) -> float:
    """The worst of the categories that show ``risk``. A category that is not known counts as harm."""
    if risk in scores:
        return scores[risk]
    shown = [score for category, score in scores.items() if risk == "harm" or CATEGORIES.get(category) == risk]
    return max(shown, default=0.0)
