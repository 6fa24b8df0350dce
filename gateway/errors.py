"""Every error a caller can see, and its one mapping to status, type, param and code.

``ApiError`` is the only exception that routes, pipeline and protocol raise towards a client; the front turns
it into the OpenAI error body (https://platform.openai.com/docs/guides/error-codes). 429 and 503 carry
``Retry-After``; what a retry cannot mend carries ``x-should-retry: false`` (read by OpenAI's own clients).
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping
from typing import Final

import msgspec

from engine import types as engine

MAX_MESSAGE_BYTES: Final = 1024
#: Seconds added to Retry-After at most, so that those who were refused together do not come back together.
MAX_SPREAD: Final = 3

INVALID_REQUEST: Final = "invalid_request_error"
PERMISSION: Final = "permission_error"
SERVER: Final = "server_error"

#: What asking again does not mend. A body that came too slowly (408) may come in time the next time; what is not
#: configured (501) will not be, although clients retry everything from 500 on.
_LASTING: Final = (frozenset(range(400, 500)) - {408}) | {501}


class ErrorVerdict(msgspec.Struct, frozen=True):
    """One verdict of the guard. ``confidence`` is of the verdict, in 0 to 1."""

    risk: str
    unsafe: bool
    confidence: float


class ErrorBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """The value of ``error`` on the wire. ``verdicts``: of a guard that blocked."""

    message: str
    type: str
    param: str | None
    code: str | None
    verdicts: tuple[ErrorVerdict, ...] | None = None


class _Envelope(msgspec.Struct, frozen=True):
    error: ErrorBody


_encode = msgspec.json.Encoder().encode


def clip(message: str, limit: int = MAX_MESSAGE_BYTES) -> str:
    """``message`` as valid UTF-8 of at most ``limit`` bytes."""
    return message.encode("utf-8", "replace")[:limit].decode("utf-8", "ignore")


class ApiError(Exception):
    """An error on its way to a client.

    ``retry_after`` is in seconds and is rounded up to at least 1 on the wire; ``close`` asks the protocol to
    close the connection after the answer; ``headers`` adds lower-case response headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None,
        param: str | None = None,
        type: str = INVALID_REQUEST,
        retry_after: float | None = None,
        close: bool = False,
        headers: Mapping[str, str] | None = None,
        verdicts: tuple[ErrorVerdict, ...] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = ErrorBody(message=clip(message), type=type, param=param, code=code, verdicts=verdicts)
        self.retry_after = retry_after
        self.close = close
        self.extra_headers = dict(headers or {})

    @property
    def code(self) -> str | None:
        """The machine-readable code in the body."""
        return self.body.code

    def payload(self) -> bytes:
        """The JSON body, also the data of a stream's error event."""
        return _encode(_Envelope(self.body))

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Response headers that belong to the error itself (not content-length or request id)."""
        out = [(b"content-type", b"application/json")]
        if self.retry_after is not None:
            seconds = max(1, math.ceil(self.retry_after))
            out.append((b"retry-after", b"%d" % (seconds + random.randint(0, min(seconds // 4, MAX_SPREAD)))))  # noqa: S311
        elif self.status in _LASTING:
            out.append((b"x-should-retry", b"false"))
        if self.close:
            out.append((b"connection", b"close"))
        out.extend((k.encode("ascii"), v.encode("latin-1", "replace")) for k, v in self.extra_headers.items())
        return out


def invalid(message: str, *, code: str, param: str | None = None) -> ApiError:
    """A 400 that names the field."""
    return ApiError(400, message, code=code, param=param)


def missing_api_key() -> ApiError:
    """No credentials: 401."""
    return ApiError(
        401,
        "You didn't provide an API key. Send it in an Authorization header: Authorization: Bearer YOUR_KEY.",
        code="missing_api_key",
        headers={"www-authenticate": 'Bearer realm="sluice"'},
    )


def invalid_api_key() -> ApiError:
    """Credentials that are wrong, expired or malformed: 401, the same for all of them."""
    return ApiError(
        401,
        "Incorrect API key provided.",
        code="invalid_api_key",
        headers={"www-authenticate": 'Bearer realm="sluice", error="invalid_token"'},
    )


def model_not_found() -> ApiError:
    """Unknown and hidden models alike: 404."""
    # The name is not echoed: the body is the same for unknown and for hidden models, byte for byte.
    return ApiError(
        404, "The model does not exist or you do not have access to it.", code="model_not_found", param="model"
    )


def unknown_url() -> ApiError:
    """No such path: 404."""
    return ApiError(404, "Unknown request URL. Check the path for a typo.", code="unknown_url")


def method_not_allowed(allow: str) -> ApiError:
    """The path exists for the methods in ``allow`` only: 405."""
    return ApiError(
        405, f"Method not allowed for this URL. Allowed: {allow}.", code="method_not_allowed", headers={"allow": allow}
    )


def too_large(limit: int, *, close: bool = True) -> ApiError:
    """The body exceeds ``limit`` bytes: 413."""
    return ApiError(413, f"Request body is larger than {limit} bytes.", code="request_too_large", close=close)


def request_timeout() -> ApiError:
    """The body came too slowly: 408."""
    return ApiError(408, "The request body arrived too slowly.", code="request_timeout", close=True)


def shutting_down(retry_after: float) -> ApiError:
    """The process drains: 503 and the connection closes."""
    return ApiError(
        503,
        "The server is shutting down. Try again.",
        code="shutting_down",
        type=SERVER,
        retry_after=retry_after,
        close=True,
    )


def unsupported_modality(param: str) -> ApiError:
    """An image for a model that takes text only: 400. ``param``: the content it is in."""
    return invalid(f"Invalid '{param}': this model takes text only.", code="unsupported_modality", param=param)


def queue_timeout(retry_after: float) -> ApiError:
    """The deadline passed before the first token: 503."""
    return ApiError(
        503,
        "The request's deadline passed before it could be served.",
        code="queue_timeout",
        type=SERVER,
        retry_after=retry_after,
    )


def internal() -> ApiError:
    """A bug of ours: 500 without a word about it."""
    return ApiError(500, "internal server error", code="internal_error", type=SERVER)


def wrong_kind(name: str, kind: str, kinds: Collection[str]) -> ApiError:
    """A model that does something else: 400 that says what it is and what is needed."""
    needed = " or ".join(f"'{kind}'" for kind in sorted(kinds))
    return ApiError(
        400,
        f"The model '{name}' is of kind '{kind}'. This endpoint needs a model of kind {needed}.",
        code="model_kind_mismatch",
        param="model",
    )


def not_configured(kinds: Collection[str]) -> ApiError:
    """No model can do this here: 501."""
    needed = " or ".join(f"'{kind}'" for kind in sorted(kinds))
    return ApiError(501, f"No model of kind {needed} is configured on this server.", code="not_configured", type=SERVER)


_STATE: Final = engine.ModelState
_UNAVAILABLE: Final[Mapping[engine.ModelState, str]] = {
    _STATE.COLD: "The model is not loaded, and there is no memory free for it now. Try again later.",
    _STATE.LOADING: "The model is being loaded. Try again later.",
    _STATE.READY: "The model is not available right now. Try again later.",
    _STATE.SLEEPING: "The model is being woken. Try again later.",
    _STATE.UNLOADING: "The model is being unloaded. Try again later.",
    _STATE.UNLOADED: "The model is not loaded: an administrator has taken it out of memory.",
    _STATE.FAILED: "The model could not be loaded. Try again later.",
}
_UNAVAILABLE_CODES: Final[Mapping[engine.ModelState, str]] = {
    _STATE.LOADING: "model_loading",
    _STATE.SLEEPING: "model_loading",
    _STATE.FAILED: "model_failed",
}


def from_engine(error: engine.EngineError, *, prompt_param: str, limit_param: str = "max_tokens") -> ApiError:
    """Map a facade error. ``prompt_param`` is the wire field that carries the prompt (``messages``, ``prompt``),
    ``limit_param`` the one that bounds the output.
    """
    match error:
        case engine.PromptTooLong(max_tokens=None):
            count = f"{error.prompt_tokens}" if error.exact else f"at least {error.prompt_tokens}"
            return invalid(
                f"This model's maximum context length is {error.limit} tokens, "
                f"but your {prompt_param} resulted in {count} tokens. Shorten the {prompt_param}.",
                code="context_length_exceeded",
                param=prompt_param,
            )
        case engine.PromptTooLong():
            return invalid(
                f"This model's maximum context length is {error.limit} tokens, but you requested "
                f"{error.prompt_tokens + (error.max_tokens or 0)} tokens ({error.prompt_tokens} in the {prompt_param}, "
                f"{error.max_tokens} for the completion). Lower one of them.",
                code="context_length_exceeded",
                param=limit_param,
            )
        case engine.UnknownToken():
            return invalid(
                f"Invalid '{prompt_param}': token id {error.token_id} is not in the model's vocabulary of "
                f"{error.vocabulary} tokens.",
                code="invalid_value",
                param=prompt_param,
            )
        case engine.RequestRejected():
            return invalid(str(error), code=error.code, param=error.param)
        case engine.AdapterNotFound():
            return model_not_found()
        case engine.AdapterUnavailable():
            return adapter_unavailable(error.retry_after, broken=error.broken)
        case engine.AdapterInUse():
            return adapter_in_use(error.running)
        case engine.AdapterRefused():
            return ApiError(
                400 if error.code == "unsafe_artifact" else 422, str(error), code=error.code, param="source"
            )
        case engine.SchemasWaiting():
            return ApiError(
                503,
                "Too many new schemas are waiting to be checked. Try again later.",
                code="queue_timeout",
                type=SERVER,
                retry_after=error.retry_after,
            )
        case engine.EngineOverloaded():
            return ApiError(
                503,
                "The engine is overloaded. Try again later.",
                code="engine_overloaded",
                type=SERVER,
                retry_after=error.retry_after,
            )
        case engine.ModelUnavailable():
            return ApiError(
                503,
                _UNAVAILABLE[error.state],
                code=_UNAVAILABLE_CODES.get(error.state, "model_not_loaded"),
                param="model",
                type=SERVER,
                retry_after=error.retry_after,
            )
        case engine.EngineUnavailable():
            return ApiError(
                503,
                "The engine is not available right now. Try again later.",
                code="engine_unavailable",
                type=SERVER,
                retry_after=error.retry_after,
            )
        case _:
            return ApiError(500, "The generation failed.", code="generation_failed", type=SERVER)


def adapter_unavailable(retry_after: float, *, broken: bool = False) -> ApiError:
    """The adapter is known, but not in the engine: 503. ``broken``: a retry by the client itself will not mend it."""
    return ApiError(
        503,
        "The adapter cannot be loaded." if broken else "The adapter is not loaded yet. Try again later.",
        code="adapter_unavailable",
        param="model",
        type=SERVER,
        retry_after=retry_after,
        headers={"x-should-retry": "false"} if broken else None,
    )


def version_unavailable(retry_after: float) -> ApiError:
    """What a version of a public name stands for is not there any more, or is something else by now: 503."""
    return ApiError(
        503,
        "The version of the model that answers you cannot be served now.",
        code="version_unavailable",
        param="model",
        type=SERVER,
        retry_after=retry_after,
        headers={"x-should-retry": "false"},
    )


def adapter_not_found() -> ApiError:
    """No adapter of this name, or none that the caller may know of: 404."""
    return ApiError(404, "No such adapter.", code="adapter_not_found", param="name")


def conflict(message: str, *, code: str, param: str) -> ApiError:
    """What is asked for stands against what there is: 409."""
    return ApiError(409, message, code=code, param=param)


def adapter_in_use(running: int) -> ApiError:
    """Requests run on an adapter that is to be removed: 409."""
    return ApiError(
        409,
        f"{running} requests run on the adapter. Ask again later, or with drain=true.",
        code="in_use",
        param="name",
    )


def auth_unavailable(retry_after: float) -> ApiError:
    """The key may be right: what it must be compared with cannot be read now. 503, never a false 401."""
    return ApiError(
        503,
        "The API key cannot be checked right now. Try again later.",
        code="auth_unavailable",
        type=SERVER,
        retry_after=retry_after,
    )


def store_unavailable(retry_after: float) -> ApiError:
    """The database of keys, usage and audit is away: 503."""
    return ApiError(
        503,
        "The store is not available right now. Try again later.",
        code="store_unavailable",
        type=SERVER,
        retry_after=retry_after,
    )


def response_not_found() -> ApiError:
    """No response with this id, or another tenant's: 404, the same for both."""
    return ApiError(404, "No such response.", code="response_not_found", param="response_id")


def responses_not_kept() -> ApiError:
    """This deployment keeps no responses: 404."""
    return ApiError(
        404,
        "This server does not keep responses (its setting responses.store is off).",
        code="response_not_found",
        param="response_id",
    )


def previous_response_not_found() -> ApiError:
    """No response to go on from, or another tenant's: 400 as at OpenAI, the same for both."""
    return invalid(
        "The previous response was not found.", code="previous_response_not_found", param="previous_response_id"
    )


def key_not_found() -> ApiError:
    """No key with this public id: 404."""
    return ApiError(404, "No such API key.", code="key_not_found", param="id")


def key_revoked() -> ApiError:
    """A revoked key stays as it is: 409."""
    return ApiError(409, "The API key was revoked, which is final.", code="key_revoked", param="id")


def beyond_own_powers(param: str) -> ApiError:
    """A caller would hand out more than it has: 403 that names the field."""
    return ApiError(
        403,
        f"This key may not give more than it has itself: '{param}'.",
        code="insufficient_scope",
        param=param,
        type=PERMISSION,
        headers={"www-authenticate": 'Bearer realm="sluice", error="insufficient_scope"'},
    )


def invalid_token() -> ApiError:
    """A bearer token that is not to be believed, for whatever reason: 401."""
    return ApiError(
        401,
        "The bearer token is not valid.",
        code="invalid_token",
        headers={"www-authenticate": 'Bearer realm="sluice", error="invalid_token"'},
    )


def token_expired() -> ApiError:
    """A bearer token that was good once: 401."""
    return ApiError(
        401,
        "The bearer token has expired. Get a new one and try again.",
        code="token_expired",
        headers={
            "www-authenticate": 'Bearer realm="sluice", error="invalid_token", error_description="The token expired"'
        },
    )


def content_policy_violation(verdicts: tuple[ErrorVerdict, ...], *, param: str | None) -> ApiError:
    """The guard does not let it through: 400 with what it found."""
    risks = ", ".join(dict.fromkeys(verdict.risk for verdict in verdicts))
    return ApiError(
        400,
        f"The content was blocked by this server's guard{f' ({risks})' if risks else ''}.",
        code="content_policy_violation",
        param=param,
        verdicts=verdicts,
    )


def guardian_unavailable(retry_after: float = 2.0) -> ApiError:
    """The guard cannot say whether it is safe, and the policy is to let nothing unchecked through: 503."""
    return ApiError(
        503,
        "The guard is not available right now. Try again later.",
        code="guardian_unavailable",
        type=SERVER,
        retry_after=retry_after,
    )
