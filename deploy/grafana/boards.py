"""The boards of Sluice, one page a question. `build.py` writes them as Grafana's JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from deploy.grafana.panels import Board, heat, lines, number, quantiles, rows, stack

OVERVIEW: Final = Board(
    "overview",
    "Overview",
    "Is it serving, how fast, and what stands in the way.",
    [
        number("Replicas ready", "short", "Whose engine takes work.", 'sum(sluice_engine_phase{@,phase="ready"})'),
        number(
            "Requests", "reqps", "Answered per second, whatever the answer.",
            'sum(rate(sluice_requests_total{@,route=~"/v1/.*"}[$__rate_interval]))',
        ),
        number(
            "Failed", "percentunit", "Share of valid requests that ended in an error of ours; the error budget's SLI.",
            '(sum(rate(sluice_requests_total{@,route=~"/v1/.*",outcome="error"}[$__rate_interval])) or vector(0))'
            ' / sum(rate(sluice_requests_total{@,route=~"/v1/.*",outcome!="rejected"}[$__rate_interval]))',
        ),
        number(
            "TTFT p95", "s", "Time from receipt to the first token of a stream.",
            "histogram_quantile(0.95, sum by (le)"
            " (rate(sluice_time_to_first_token_seconds_bucket{@}[$__rate_interval])))",
        ),
        number(
            "Tokens generated", "short", "Per second.",
            'sum(rate(sluice_tokens_total{@,kind="completion"}[$__rate_interval]))',
        ),
        number("KV cache", "percentunit", "The fullest replica's.", "max(sluice_engine_kv_usage_ratio{@})"),
        stack(
            "Requests by outcome", "reqps",
            "Completed, cancelled by the caller, ended in an error of ours, rejected with a 4xx.",
            ('sum by (outcome) (rate(sluice_requests_total{@,route=~"/v1/.*"}[$__rate_interval]))', "{{outcome}}"),
        ),
        lines(
            "Refusals and errors by code", "reqps", "The `code` of the error body, as callers see it.",
            ('sum by (code) (rate(sluice_requests_total{@,code!=""}[$__rate_interval]))', "{{code}}"),
        ),
        lines(
            "Time to first token", "s", "Streams, from receipt.",
            *quantiles("sluice_time_to_first_token_seconds"),
        ),
        stack(
            "Tokens", "short", "Per second, of settled requests.",
            ('sum by (kind) (rate(sluice_tokens_total{@,kind!="cached"}[$__rate_interval]))', "{{kind}}"),
        ),
        lines(
            "In flight and waiting", "short", "Admitted requests, requests that wait for their turn, and the bound.",
            ("sum(sluice_requests_in_flight{@})", "in flight"),
            ("sum(sluice_requests_queued{@})", "waiting"),
            ("sum(sluice_running_bound{@})", "bound on sequences"),
        ),
        lines(
            "Engine phase", "short", "Replicas in each phase of the engine's life.",
            ("sum by (phase) (sluice_engine_phase{@}) > 0", "{{phase}}"),
        ),
    ],
)  # fmt: skip

LATENCY: Final = Board(
    "latency",
    "Latency",
    "Where the time of a request goes: waiting for its turn, reading the prompt, writing tokens.",
    [
        lines(
            "Time to first token by model", "s", "Streams, from receipt to the first token.",
            *quantiles("sluice_time_to_first_token_seconds", "model"),
        ),
        heat(
            "Time to first token", "s", "How many streams began how late.",
            "sum by (le) (increase(sluice_time_to_first_token_seconds_bucket{@}[$__rate_interval]))",
        ),
        lines(
            "Inter-token latency, by stream", "s", "The mean of one stream, over completed streams.",
            *quantiles("sluice_inter_token_seconds", "model"),
        ),
        lines(
            "Inter-token latency, each token", "s", "As the engine made them, before the network.",
            *quantiles("vllm:inter_token_latency_seconds"),
        ),
        lines(
            "Wait for a turn", "s", "Admitted requests in Sluice's fair queue.", *quantiles("sluice_queue_seconds"),
        ),
        lines(
            "Wait in the engine", "s", "From the engine's receipt to its first step with the request.",
            *quantiles("vllm:request_queue_time_seconds"),
        ),
        lines(
            "Prefill", "s", "Reading the prompt.", *quantiles("vllm:request_prefill_time_seconds"),
        ),
        lines(
            "Decode", "s", "From the first token to the last.", *quantiles("vllm:request_decode_time_seconds"),
        ),
        lines(
            "End to end, by route", "s", "From receipt to the end of the answer.",
            *quantiles("sluice_request_duration_seconds", "route", 'route=~"/v1/.*"'),
        ),
        lines(
            "Prompt sizes", "short", "Tokens of admitted prompts: long ones are slow ones.",
            *quantiles("sluice_prompt_tokens"),
        ),
    ],
)  # fmt: skip

TENANTS: Final = Board(
    "tenants",
    "Tokens and cost by tenant",
    "Who uses what. The busiest tenants have lines of their own, all the rest is `other`.",
    [
        stack(
            "Tokens by tenant", "short", "Prompt and completion tokens per second.",
            (
                'sum by (tenant) (rate(sluice_tenant_tokens_total{@,kind!="cached"}[$__rate_interval]))',
                "{{tenant}}",
            ),
        ),
        stack(
            "Requests by tenant", "reqps", "Answered, whatever the answer.",
            ("sum by (tenant) (rate(sluice_tenant_requests_total{@}[$__rate_interval]))", "{{tenant}}"),
        ),
        lines(
            "Rejected by tenant", "reqps", "Refused with a 4xx: limits, malformed requests, missing rights.",
            (
                'sum by (tenant) (rate(sluice_tenant_requests_total{@,outcome="rejected"}[$__rate_interval]))',
                "{{tenant}}",
            ),
            rare=True,
        ),
        lines(
            "Failed by tenant", "reqps", "Ended in an error of ours.",
            (
                'sum by (tenant) (rate(sluice_tenant_requests_total{@,outcome="error"}[$__rate_interval]))',
                "{{tenant}}",
            ),
            rare=True,
        ),
        lines(
            "Cost by tenant, per hour", "short", "In the currency of `usage.prices`; 0 where no price is set.",
            ("sum by (tenant) (rate(sluice_tenant_cost_total{@}[$__rate_interval])) * 3600", "{{tenant}}"),
        ),
        lines(
            "Cached share of prompts", "percentunit", "Prompt tokens that the prefix cache saved.",
            (
                'sum by (tenant) (rate(sluice_tenant_tokens_total{@,kind="cached"}[$__rate_interval]))'
                ' / (sum by (tenant) (rate(sluice_tenant_tokens_total{@,kind="prompt"}[$__rate_interval])) > 0)',
                "{{tenant}}",
            ),
        ),
        rows(
            "Tokens in the chosen time", "short", "The ten busiest tenants.",
            'topk(10, sum by (tenant, kind) (increase(sluice_tenant_tokens_total{@,kind!="cached"}[$__range]))) > 0',
        ),
        rows(
            "Cost in the chosen time", "short", "The ten dearest tenants.",
            "topk(10, sum by (tenant) (increase(sluice_tenant_cost_total{@}[$__range]))) > 0",
        ),
    ],
)  # fmt: skip

LIMITS: Final = Board(
    "limits",
    "Limits and rejections",
    "What was refused and why, and whether the store behind the limits answers.",
    [
        lines(
            "Decisions on limits", "reqps", "By who decided: Redis, memory, or a replica alone while Redis is away.",
            (
                "sum by (by, outcome) (rate(sluice_limit_decisions_total{@}[$__rate_interval]))",
                "{{by}} {{outcome}}",
            ),
        ),
        lines(
            "Refused with 429", "reqps", "By the code that the caller sees.",
            ('sum by (code) (rate(sluice_requests_total{@,status="429"}[$__rate_interval]))', "{{code}}"),
            rare=True,
        ),
        lines(
            "Decision time of the shared store", "s", "Redis, as the event loop waits for it.",
            *quantiles("sluice_limit_store_seconds"),
        ),
        lines(
            "Shared store", "short", "1 while it decides (0 too where none is configured); settlements on their way.",
            ("min(sluice_limit_store_available{@})", "available"),
            ("sum(sluice_limit_settles_pending{@})", "settlements pending"),
        ),
        lines(
            "Failures of the shared store", "ops", "By reason.",
            ("sum by (reason) (rate(sluice_limit_store_errors_total{@}[$__rate_interval]))", "{{reason}}"),
            rare=True,
        ),
        lines(
            "Sent away by the queue", "reqps", "503: the queue is full, the wait would be too long, memory is short.",
            ("sum by (reason) (rate(sluice_requests_shed_total{@}[$__rate_interval]))", "{{reason}}"),
            rare=True,
        ),
        lines(
            "Refused at the door", "reqps", "401 and 403, by code.",
            ('sum by (code) (rate(sluice_requests_total{@,status=~"401|403"}[$__rate_interval]))', "{{code}}"),
            rare=True,
        ),
        lines(
            "Refused by the HTTP front", "reqps", "Malformed, too large or too slow, before there was a request.",
            ("sum by (code) (rate(sluice_http_rejections_total{@}[$__rate_interval]))", "{{code}}"),
            rare=True,
        ),
        lines(
            "JWTs", "ops", "Refused tokens by reason, and fetches of issuers' keys.",
            ("sum by (reason) (rate(sluice_jwt_refusals_total{@}[$__rate_interval]))", "refused: {{reason}}"),
            ("sum by (outcome) (rate(sluice_jwks_fetches_total{@}[$__rate_interval]))", "keys: {{outcome}}"),
            rare=True,
        ),
        lines(
            "Keys", "short", "In memory, and whether their database answers.",
            ("max(sluice_keys_known{@})", "keys known"),
            ("min(sluice_store_available{@})", "database available"),
        ),
    ],
)  # fmt: skip

ENGINE: Final = Board(
    "engine",
    "Engine",
    "vLLM in the same process: its cache, its batch, what it had to throw out.",
    [
        lines(
            "KV cache in use", "percentunit", "Full means preemption: requests lose their place and start over.",
            ("vllm:kv_cache_usage_perc{@}", "{{instance}}"),
        ),
        lines(
            "Preemptions", "ops", "Sequences thrown out of the batch for want of KV cache.",
            ("sum by (instance) (rate(vllm:num_preemptions_total{@}[$__rate_interval]))", "{{instance}}"),
        ),
        lines(
            "Batch", "short", "Sequences that run and that wait inside the engine.",
            ("sum(vllm:num_requests_running{@})", "running"),
            ("sum(vllm:num_requests_waiting{@})", "waiting"),
        ),
        lines(
            "Tokens per step", "short", "How much work one pass through the model carries.",
            *quantiles("vllm:iteration_tokens_total"),
        ),
        stack(
            "Throughput", "short", "Tokens per second that the engine computed.",
            ("sum(rate(vllm:prompt_tokens_total{@}[$__rate_interval]))", "prompt"),
            ("sum(rate(vllm:generation_tokens_total{@}[$__rate_interval]))", "generation"),
        ),
        lines(
            "Prefix cache hits", "percentunit", "Share of prompt tokens found in the cache.",
            (
                "sum(rate(vllm:prefix_cache_hits_total{@}[$__rate_interval]))"
                " / (sum(rate(vllm:prefix_cache_queries_total{@}[$__rate_interval])) > 0)",
                "hits",
            ),
        ),
        lines(
            "Finished, by reason", "reqps", "As the engine counts them.",
            ("sum by (finished_reason) (rate(vllm:request_success_total{@}[$__rate_interval]))", "{{finished_reason}}"),
        ),
        lines(
            "Restarts", "short", "Since the start of the process.",
            ("sluice_engine_restarts{@}", "{{instance}}"),
        ),
    ],
)  # fmt: skip

FRONT: Final = Board(
    "front-end",
    "Front end",
    "The one process around the engine: its event loop, its CPU, its books.",
    [
        lines(
            "Event loop lag", "s", "How late timers ran; something blocks the loop where this is high.",
            *quantiles("sluice_event_loop_lag_seconds"),
            ("max(sluice_event_loop_lag_max_seconds{@})", "worst of the last 30 s"),
        ),
        lines(
            "CPU per 1,000 tokens", "s", "CPU time of the front end's process over tokens sent.",
            (
                "sum(rate(process_cpu_seconds_total{@}[$__rate_interval]))"
                ' / (sum(rate(sluice_tokens_total{@,kind="completion"}[$__rate_interval])) > 0) * 1000',
                "CPU seconds",
            ),
        ),
        lines(
            "CPU", "short", "Cores in use by the front end's process.",
            ("rate(process_cpu_seconds_total{@}[$__rate_interval])", "{{instance}}"),
        ),
        lines(
            "Memory", "bytes", "Resident, of the front end's process.",
            ("process_resident_memory_bytes{@}", "{{instance}}"),
        ),
        lines(
            "Connections", "short", "Open client connections.", ("sluice_connections{@}", "{{instance}}"),
        ),
        lines(
            "File descriptors", "percentunit", "Share of what the process may open.",
            ("process_open_fds{@} / process_max_fds{@}", "{{instance}}"),
        ),
        lines(
            "Books", "short", "Rows that could not be kept, lines dropped: 0, or something is lost.",
            ("sum(sluice_ledger_degraded{@})", "ledgers that cannot be written"),
            ("sum(increase(sluice_ledger_rows_lost_total{@}[$__rate_interval]))", "ledger rows lost"),
            ("sum(increase(sluice_audit_entries_lost_total{@}[$__rate_interval]))", "audit entries lost"),
            ("sum(increase(sluice_log_records_dropped_total{@}[$__rate_interval]))", "log lines dropped"),
        ),
        lines(
            "Usage behind", "bytes", "Bytes of the ledger that the database does not have yet.",
            ("sluice_usage_behind_bytes{@}", "{{instance}}"),
        ),
        lines(
            "Settings", "short", "Generation in force, reloads refused, and settings that wait for a restart.",
            ("max(sluice_config_generation{@})", "generation"),
            ("sum(increase(sluice_config_reload_failures_total{@}[$__rate_interval]))", "reloads refused"),
            ("max(sluice_config_restart_needed{@})", "settings that wait"),
        ),
        lines(
            "Traces", "ops", "Spans that the collector took, and spans that nobody has, by why.",
            ("sum(rate(sluice_trace_spans_exported_total{@}[$__rate_interval]))", "exported"),
            ("sum by (reason) (rate(sluice_trace_spans_dropped_total{@}[$__rate_interval]))", "dropped: {{reason}}"),
            rare=True,
        ),
    ],
)  # fmt: skip

GUARDIAN: Final = Board(
    "guardian",
    "Guardian",
    "What the guard saw, what followed, how long it took, and whether its evaluators answer.",
    [
        lines(
            "Verdicts", "ops", "By stage (input, output) and outcome.",
            (
                "sum by (stage, outcome) (rate(sluice_guard_verdicts_total{@}[$__rate_interval]))",
                "{{stage}} {{outcome}}",
            ),
        ),
        lines(
            "Flagged, by risk", "ops", "What was found.",
            (
                'sum by (risk) (rate(sluice_guard_verdicts_total{@,outcome="flagged"}[$__rate_interval]))',
                "{{risk}}",
            ),
        ),
        lines(
            "What followed", "ops", "Blocked, redacted, annotated, or only counted.",
            (
                "sum by (stage, action) (rate(sluice_guard_actions_total{@}[$__rate_interval]))",
                "{{stage}} {{action}}",
            ),
        ),
        lines(
            "Time of a look", "s", "By evaluator; input is judged beside the wait for a turn.",
            *quantiles("sluice_guard_seconds", "evaluator"),
        ),
        lines(
            "Looks without a verdict", "ops", "By evaluator and reason: `on_failure` decides what happens then.",
            (
                "sum by (evaluator, reason) (rate(sluice_guard_failures_total{@}[$__rate_interval]))",
                "{{evaluator}} {{reason}}",
            ),
            rare=True,
        ),
        lines(
            "Evaluators asked", "short", "1 while an evaluator is asked, 0 while its breaker is open.",
            ("min by (evaluator) (sluice_guard_evaluator_available{@})", "{{evaluator}}"),
            rare=True,
        ),
        lines(
            "Remembered verdicts", "percentunit", "Share of findings that were known by their hash.",
            (
                'sum(rate(sluice_guard_cache_total{@,outcome="hit"}[$__rate_interval]))'
                " / (sum(rate(sluice_guard_cache_total{@}[$__rate_interval])) > 0)",
                "hits",
            ),
        ),
        lines(
            "Tokens saved", "short", "Per second, not generated because an answer was cut.",
            ("sum(rate(sluice_guard_tokens_saved_total{@}[$__rate_interval]))", "tokens"),
        ),
    ],
)  # fmt: skip

MODELS: Final = Board(
    "models",
    "Models and adapters",
    "Which model and adapter does the work.",
    [
        stack(
            "Tokens by model", "short", "Prompt and completion tokens per second.",
            ('sum by (model) (rate(sluice_tokens_total{@,kind!="cached"}[$__rate_interval]))', "{{model}}"),
        ),
        lines(
            "Answer sizes by model", "short", "Completion tokens of settled requests.",
            *quantiles("sluice_completion_tokens", "model"),
        ),
        lines(
            "Inter-token latency by model", "s", "The mean of one stream, over completed streams.",
            *quantiles("sluice_inter_token_seconds", "model"),
        ),
        lines(
            "Prompt sizes by model", "short", "Tokens of admitted prompts.",
            *quantiles("sluice_prompt_tokens", "model"),
        ),
        stack(
            "Tokens by adapter", "short", "Prompt and completion tokens per second.",
            (
                "sum by (model, adapter) (rate(sluice_adapter_tokens_total{@}[$__rate_interval]))",
                "{{model}}:{{adapter}}",
            ),
            rare=True,
        ),
        lines(
            "Requests by adapter", "reqps", "Settled.",
            (
                "sum by (model, adapter) (rate(sluice_adapter_requests_total{@}[$__rate_interval]))",
                "{{model}}:{{adapter}}",
            ),
            rare=True,
        ),
        lines(
            "Adapters in the engine", "bytes", "Bytes of their weights.",
            ("sum by (instance) (sluice_adapters_resident_bytes{@})", "{{instance}}"),
        ),
        lines(
            "Adapters come and go", "ops", "Loads by outcome, and evictions: many of both, and the cache is small.",
            ("sum by (outcome) (rate(sluice_adapter_loads_total{@}[$__rate_interval]))", "loaded: {{outcome}}"),
            ("sum(rate(sluice_adapter_evictions_total{@}[$__rate_interval]))", "evicted"),
            rare=True,
        ),
        lines(
            "Wait for an adapter", "s", "Of requests whose adapter was not in the engine.",
            *quantiles("sluice_adapter_wait_seconds"), rare=True,
        ),
        lines(
            "Time to load an adapter", "s", "Into the engine.", *quantiles("sluice_adapter_load_seconds"), rare=True,
        ),
        lines(
            "Memory of models", "bytes", "What the processes of each model hold, and what all of them may take.",
            ("sum by (model) (sluice_model_memory_bytes{@})", "{{model}}"),
            ("sum(sluice_models_budget_bytes{@}) > 0", "budget"),
        ),
        lines(
            "Models in memory", "short", "Replicas that have each model in each state.",
            ("sum by (model, state) (sluice_model_state{@}) > 0", "{{model}} {{state}}"),
        ),
        lines(
            "Requests that hold a model", "short", "Those that wait for its load among them.",
            ("sum by (model) (sluice_model_users{@})", "{{model}}"),
        ),
        lines(
            "Models come and go", "ops", "Loads by outcome, and models that left to make room for others.",
            (
                "sum by (model, outcome) (rate(sluice_model_loads_total{@}[$__rate_interval]))",
                "{{model}} loaded: {{outcome}}",
            ),
            ("sum by (model) (rate(sluice_model_evictions_total{@}[$__rate_interval]))", "{{model}} evicted"),
            rare=True,
        ),
        lines(
            "Agents", "ops", "Runs by why they stopped, and turns of the model.",
            ("sum by (reason) (rate(sluice_agent_runs_total{@}[$__rate_interval]))", "{{reason}}"),
            ("sum(rate(sluice_agent_steps_total{@}[$__rate_interval]))", "turns"),
            rare=True,
        ),
        lines(
            "Server-side tools", "s", "Time of a call, by tool.",
            *quantiles("sluice_agent_tool_seconds", "tool"), rare=True,
        ),
        lines(
            "Images", "ops", "Images of requests, by where they were and what came of them.",
            (
                "sum by (source, outcome) (rate(sluice_images_total{@}[$__rate_interval]))",
                "{{source}} {{outcome}}",
            ),
            rare=True,
        ),
        lines(
            "Time of an image", "s", "Fetching and decoding.", *quantiles("sluice_image_seconds", "source"), rare=True,
        ),
    ],
)  # fmt: skip

REGISTRY: Final = Board(
    "registry",
    "Public names",
    "Which version of a public name answers, and how each of them fares.",
    [
        stack(
            "Requests by arm", "reqps", "An arm is a version of a public name: `name@version`.",
            ("sum by (arm) (rate(sluice_registry_requests_total{@}[$__rate_interval]))", "{{arm}}"),
        ),
        lines(
            "Failed, by arm", "percentunit", "Of what the version itself answered; refusals and leavers do not count.",
            (
                '(sum by (arm) (rate(sluice_registry_requests_total{@,outcome="failed"}[$__rate_interval]))'
                ' or 0 * sum by (arm) (rate(sluice_registry_requests_total{@}[$__rate_interval])))'
                " / (sum by (arm)"
                ' (rate(sluice_registry_requests_total{@,outcome=~"failed|succeeded"}[$__rate_interval])) > 0)',
                "{{arm}}",
            ),
        ),
        lines(
            "Time of a request, by arm", "s", "Of those that succeeded: what a canary is compared by.",
            *quantiles("sluice_registry_request_seconds", "arm"),
        ),
        stack(
            "Endings", "reqps", "Of all public names: succeeded, failed, refused or cancelled.",
            ("sum by (outcome) (rate(sluice_registry_requests_total{@}[$__rate_interval]))", "{{outcome}}"),
        ),
        lines(
            "Share of canaries", "percentunit", "Of their names' traffic; nothing while no canary runs.",
            ("max by (arm) (sluice_registry_canary_share_ratio{@})", "{{arm}}"),
            rare=True,
        ),
        lines(
            "What became of canaries", "short", "Steps, promotions and rollbacks since the processes started.",
            ("sum by (name, outcome) (sluice_registry_canary_turns_total{@})", "{{name}} {{outcome}}"),
            rare=True,
        ),
        lines(
            "Shadows", "ops", "Requests that a version was asked unseen, and those dropped for want of room.",
            (
                "sum by (arm, outcome) (rate(sluice_registry_shadows_total{@}[$__rate_interval]))",
                "{{arm}} {{outcome}}",
            ),
            rare=True,
        ),
        lines("Names", "short", "Public names that are known.", ("max(sluice_registry_names{@})", "names")),
    ],
)  # fmt: skip

DISAGGREGATION: Final = Board(
    "disaggregation",
    "Prefill by peers",
    "Prompts that other servers compute: how many, how fast, and why not. Empty where no role is set.",
    [
        stack(
            "Prompts by where they were computed", "reqps",
            "By a peer, here although a peer might have, or here because they are of a kind that does not move.",
            ("sum by (where) (rate(sluice_disaggregation_prompts_total{@}[$__rate_interval]))", "{{where}}"),
        ),
        lines(
            "Peers", "short", "Replicas that think so of each peer.",
            ("sum by (peer, standing) (sluice_disaggregation_peer{@}) > 0", "{{peer}} {{standing}}"),
        ),
        lines(
            "A prompt at a peer", "s", "There and back, the peer's queue and prefill within.",
            *quantiles("sluice_disaggregation_prefill_seconds"),
        ),
        lines(
            "Prompt tokens that came by the connector", "short", "Per second, as vLLM counts them.",
            ("sum(rate(vllm:external_prefix_cache_hits_total{@}[$__rate_interval]))", "tokens"),
        ),
        lines(
            "Computed here instead", "ops", "By why no peer did it.",
            ("sum by (reason) (rate(sluice_disaggregation_fallbacks_total{@}[$__rate_interval]))", "{{reason}}"),
            rare=True,
        ),
        lines(
            "Failures of peers", "ops", "By peer and reason.",
            (
                "sum by (peer, reason) (rate(sluice_disaggregation_failures_total{@}[$__rate_interval]))",
                "{{peer}} {{reason}}",
            ),
            rare=True,
        ),
        stack(
            "Served to peers", "reqps", "On prefill servers: prompts computed for others, by how they ended.",
            ("sum by (outcome) (rate(sluice_disaggregation_served_total{@}[$__rate_interval]))", "{{outcome}}"),
        ),
    ],
)  # fmt: skip

BOARDS: Final[Sequence[Board]] = (
    OVERVIEW, LATENCY, TENANTS, LIMITS, GUARDIAN, MODELS, REGISTRY, DISAGGREGATION, ENGINE, FRONT,
)  # fmt: skip
