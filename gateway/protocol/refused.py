"""Fields that OpenAI or vLLM know and this server does not honour: refused by name, with a hint. One table.

A field that becomes supported is added to its model and its row is removed here. ``null`` means absent, and a
row's neutral values ask for nothing beyond what happens anyway, so both are let through.

Sources: OpenAI's OpenAPI document (CreateChatCompletionRequest, CreateCompletionRequest); vLLM 0.32
``entrypoints/openai/{chat_completion,completion}/protocol.py`` and ``renderers/chat_utils.py`` (part types).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.protocol.strictjson import json_path
from gateway.protocol.validation import Problem, unknown, unsupported

Fields = dict[str, object]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a field is refused (``hint``, a sentence) and which values of it are ``neutral``."""

    hint: str
    neutral: tuple[object, ...] = ()

    def allows(self, value: object) -> bool:
        """Whether leaving the field out would mean the same."""
        return value is None or any(type(value) is type(same) and value == same for same in self.neutral)


Refusals = Mapping[str, Refusal]


def _each(names: str, hint: str, *neutral: object) -> dict[str, Refusal]:
    return {name: Refusal(hint, neutral) for name in names.split()}


_FUNCTIONS: Final = "It was replaced by 'tools', 'tool_choice' and messages of role 'tool'; use these."
_STRUCTURE: Final = "Use 'structured_outputs' instead; in chats also 'response_format'."
_TEMPLATE: Final = "The server's own chat template is always used."
_MEDIA: Final = "Media are prepared by the server alone."
_AUDIO: Final = "Only text output is supported."
_OURS: Final = "The server decides this; a request cannot."
_PREFIX_CACHE: Final = "Prefix caching is automatic and cannot be steered; leave the field out."
_REASONING: Final = "Use 'reasoning_effort' instead."
_SAMPLING: Final = "This way of sampling is not supported."
_OUTPUT: Final = "This addition to the output is not supported."

BODY: Final[Refusals] = {
    **_each("functions function_call", _FUNCTIONS),
    **_each("response_format", "Use 'structured_outputs' instead.", {"type": "text"}),
    **_each("guided_json guided_regex guided_choice guided_grammar", _STRUCTURE),
    **_each("guided_decoding_backend guided_whitespace_pattern", _STRUCTURE),
    **_each("modalities", _AUDIO, ["text"]),
    **_each("audio", _AUDIO),
    **_each("prediction", "Predicted outputs are not supported."),
    **_each("reasoning thinking thinking_token_budget", _REASONING),
    **_each("verbosity", "Ask for it in a message instead."),
    **_each("web_search_options", "Web search is not supported."),
    **_each("moderation", "Moderation is not a choice of the request."),
    **_each("store", "Completions are never stored; only false is supported.", False),
    **_each("service_tier", "Only 'auto' and 'default' are supported.", "auto", "default"),
    **_each("prompt_cache_key prompt_cache_retention prompt_cache_options cache_salt", _PREFIX_CACHE),
    **_each("priority request_id session_id data_parallel_rank", _OURS),
    **_each("kv_transfer_params ec_transfer_params vllm_xargs routed_experts_prompt_start", _OURS),
    **_each("chat_template chat_template_kwargs chat_template_content_format", _TEMPLATE),
    **_each("add_generation_prompt continue_final_message add_special_tokens", _TEMPLATE),
    **_each("documents", "Put the documents into a message instead."),
    **_each("mm_processor_kwargs media_io_kwargs mm_payload return_mm_kwargs image_embeds", _MEDIA),
    **_each("prompt_embeds", "Send 'prompt' as text or token ids instead."),
    **_each("best_of", "Only a value equal to 'n' is supported; use 'n'."),
    **_each("suffix", "Inserting text before a suffix is not supported."),
    **_each("echo", "It belongs to /v1/completions."),
    **_each("prompt_logprobs logprob_token_ids", "Only log probabilities of the output are supported."),
    **_each("stop_token_ids include_stop_str_in_output", "Use 'stop' with strings."),
    **_each("min_tokens bad_words allowed_token_ids", "Use 'logit_bias' or 'ignore_eos' instead."),
    **_each("use_beam_search length_penalty early_stopping repetition_detection watermarking", _SAMPLING),
    **_each("truncate_prompt_tokens truncation_side", "A prompt that is too long is refused, never cut."),
    **_each("skip_special_tokens spaces_between_special_tokens", _OUTPUT),
    **_each("return_tokens_as_token_ids return_token_ids return_token_offsets return_prompt_text", _OUTPUT),
    **_each("stream_interval", "Tokens are sent as soon as they are ready."),
}

STREAM_OPTIONS: Final[Refusals] = {
    **_each("include_obfuscation", "Chunks are not padded; only false is supported.", False),
    **_each("continuous_usage_stats", "Use 'include_usage', which reports once.", False),
}

MESSAGE: Final[Refusals] = {
    **_each("function_call", _FUNCTIONS),
    **_each("refusal", "Send it as the message's content."),
    **_each("annotations", _OUTPUT, []),
    **_each("audio", _AUDIO),
    **_each("thinking thinking_blocks", "Send it as 'reasoning_content'."),
    **_each("cache_control", _PREFIX_CACHE),
    **_each("prefix partial", _TEMPLATE),
}

PART: Final[Refusals] = {
    **_each("uuid", "The server itself knows equal images."),
    **_each("cache_control prompt_cache_breakpoint", _PREFIX_CACHE),
    **_each("annotations", _OUTPUT, []),
}

ROLES: Final[Refusals] = _each("function", _FUNCTIONS)

PART_TYPES: Final[Refusals] = {
    **_each("refusal", "Send it as text."),
    **_each("thinking", "Send it as the message's 'reasoning_content'."),
    **_each("tool_reference", "Declare tools in 'tools'."),
}

# Part types that carry something else than text.
MODALITIES: Final = frozenset(
    _each("input_image image_embeds image_pil", "Send images as parts of type 'image_url'.")
    | _each("input_audio audio_url audio_embeds video_url video_embeds file input_file prompt_embeds", _MEDIA)
)


def screen(fields: Fields, accepted: frozenset[str], refused: Refusals, *where: str | int) -> Fields:
    """``fields`` without the neutral ones, if nothing in it is refused or unknown.

    Raises :class:`~gateway.errors.ApiError` 400 ``unsupported_parameter``, else ``unknown_parameter``, for the
    first such field; ``where`` is the path that leads to ``fields``.
    """
    if fields.keys() <= accepted:
        return fields
    faults = foreign(fields, accepted, refused)
    if not faults:
        return {name: value for name, value in fields.items() if name in accepted}
    name, problem = min(faults, key=lambda fault: fault[1].code == "unknown_parameter")
    raise problem.at(json_path([*where, name]))


def foreign(fields: Fields, accepted: frozenset[str], refused: Refusals) -> list[tuple[str, Problem]]:
    """Every field of ``fields`` that is neither accepted nor neutral, with what to say about it."""
    others = [(name, refused.get(name), value) for name, value in fields.items() if name not in accepted]
    return [(name, _fault(row)) for name, row, value in others if row is None or not row.allows(value)]


def _fault(row: Refusal | None) -> Problem:
    return unknown() if row is None else unsupported(row.hint)
