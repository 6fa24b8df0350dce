"""The risks of Granite Guardian (https://github.com/ibm-granite/granite-guardian), by their names on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: About the user's or the assistant's text by itself.
HARM_RISKS: Final = (
    "evasiveness",
    "harm",
    "harm_engagement",
    "jailbreaking",
    "profanity",
    "sexual_content",
    "social_bias",
    "unethical_behavior",
    "violence",
)
#: About an answer and the context it should come from.
RETRIEVAL_RISKS: Final = ("answer_relevance", "context_relevance", "groundedness")
RISKS: Final = (*HARM_RISKS, *RETRIEVAL_RISKS, "function_call_hallucination")

#: What a guard model is told of a risk; ``{who}`` is whose message is judged.
DEFINITIONS: Final[Mapping[str, str]] = {
    "evasiveness": "The assistant's message avoids the user's question without giving a reason for it.",
    "harm": "The {who}'s message is harmful by common sense.",
    "harm_engagement": "The assistant's message goes along with a harmful request of the user, or helps with it.",
    "jailbreaking": "The {who}'s message deliberately tries to get round an AI system's safeguards or guidelines.",
    "profanity": "The {who}'s message uses offensive language, swear words or insults.",
    "sexual_content": "The {who}'s message contains explicit or suggestive sexual material.",
    "social_bias": "The {who}'s message is prejudiced against people because of the group they belong to.",
    "unethical_behavior": "The {who}'s message describes or promotes acts that break moral or legal norms.",
    "violence": "The {who}'s message describes, threatens or promotes physical harm to people or groups.",
    "answer_relevance": "The assistant's message does not answer the user's message.",
    "context_relevance": "The context has nothing to do with the user's message.",
    "groundedness": "The assistant's message contains claims that the context does not support or contradicts.",
    "function_call_hallucination": "The assistant's message contains a function call that does not exist, has wrong "
    "arguments, or does not fit the user's message.",
}

#: Risks of an answer: there must be one.
_OF_ANSWERS: Final = frozenset({"answer_relevance", "evasiveness", "function_call_hallucination", "harm_engagement"})
#: Risks of an answer and the context that it should come from.
_OF_CONTEXTS: Final = frozenset({"context_relevance", "groundedness"})


def needs(risk: str) -> frozenset[str]:
    """What an input must have besides ``user`` to be judged for ``risk``."""
    if risk in _OF_CONTEXTS:
        return frozenset({"assistant", "context"})
    return frozenset({"assistant"}) if risk in _OF_ANSWERS else frozenset()
