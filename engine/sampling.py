"""Our sampling values -> vLLM's ``SamplingParams`` (vllm/sampling_params.py, 0.32)."""

from __future__ import annotations

from vllm import SamplingParams
from vllm.exceptions import VLLMClientError
from vllm.sampling_params import RequestOutputKind

from engine.types import RequestRejected, Sampling

INT64_MAX = 2**63 - 1


def to_vllm(sampling: Sampling, *, stream: bool) -> SamplingParams:
    """Build ``SamplingParams`` for one request that passed :func:`check_bounds`.

    Raises :class:`RequestRejected` naming the field, if vLLM does not take it.
    """
    try:
        return _build(sampling, stream)
    except VLLMClientError as error:
        raise RequestRejected(str(error), param=getattr(error, "parameter", None)) from error


def _build(sampling: Sampling, stream: bool) -> SamplingParams:
    # vLLM refuses several greedy choices; the best of one candidate is the same choice, and OpenAI allows it.
    greedy_many = sampling.n > 1 and sampling.temperature == 0.0
    return SamplingParams(
        n=sampling.n,
        max_tokens=sampling.max_tokens,
        temperature=1.0 if greedy_many else sampling.temperature,
        top_p=sampling.top_p,
        top_k=1 if greedy_many else sampling.top_k,
        min_p=sampling.min_p,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        repetition_penalty=sampling.repetition_penalty,
        seed=sampling.seed,
        stop=list(sampling.stop),
        logit_bias=dict(sampling.logit_bias) if sampling.logit_bias else None,
        logprobs=sampling.logprobs,
        ignore_eos=sampling.ignore_eos,
        output_kind=RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY,
        # Ours alone, so vLLM need not copy it before use.
        skip_clone=True,
    )


def check_speculation(sampling: Sampling) -> None:
    """Refuse, by name, what vLLM cannot sample while it speculates (``SamplingParams._validate_spec_decode``).

    Raises :class:`RequestRejected`.
    """
    for name, asked in (("min_p", sampling.min_p > 0), ("logit_bias", bool(sampling.logit_bias))):
        if asked:
            raise RequestRejected(
                f"Unsupported parameter: '{name}'. It cannot be combined with this model's speculative decoding.",
                param=name,
                code="unsupported_parameter",
            )


def check_bounds(sampling: Sampling, vocab_size: int) -> None:
    """Refuse what vLLM would let through and then fail on. Raises :class:`RequestRejected` naming the field.

    An integer beyond int64 passes vLLM's own validation, fails in msgpack and leaks an entry of its output
    processor; a bias on an id outside the vocabulary fails inside the engine core.
    """
    for name in ("n", "max_tokens", "top_k", "seed"):
        value = getattr(sampling, name)
        if value is not None and not -INT64_MAX - 1 <= value <= INT64_MAX:
            raise RequestRejected(f"Invalid '{name}': out of range.", param=name)
    for token_id in sampling.logit_bias or ():
        if not 0 <= token_id < vocab_size:
            raise RequestRejected(
                f"Invalid 'logit_bias': token id {token_id} is not in the model's vocabulary of {vocab_size} tokens.",
                param="logit_bias",
            )
