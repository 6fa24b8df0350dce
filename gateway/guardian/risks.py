"""The risks of Granite Guardian (https://github.com/ibm-granite/granite-guardian), by their names on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: About the user's or the assistant's text by itself.
HARM_RISKS: Final[Mapping[str, str]] = {
    "evasiveness": "the answer avoids the question without saying why",
    "harm": "harmful in any of the usual senses",
    "harm_engagement": "the answer goes along with a harmful request",
    "jailbreaking": "tries to talk a model out of its rules",
    "profanity": "offensive language",
    "sexual_content": "sexual content",
    "social_bias": "prejudice against people for what they are",
    "unethical_behavior": "acts against moral or legal norms",
    "violence": "describes or promotes physical harm",
}
#: About an answer and the context it should come from.
RETRIEVAL_RISKS: Final[Mapping[str, str]] = {
    "answer_relevance": "the answer does not answer the question",
    "context_relevance": "the context does not bear on the question",
    "groundedness": "the answer says what the context does not",
}
FUNCTION_CALL_RISKS: Final[Mapping[str, str]] = {
    "function_call_hallucination": "the call does not fit the declared functions or the question",
}
RISKS: Final[Mapping[str, str]] = {**HARM_RISKS, **RETRIEVAL_RISKS, **FUNCTION_CALL_RISKS}
