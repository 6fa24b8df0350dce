"""The HTTP edge: OpenAI's protocol, tenants and policy. Never imports vLLM; sees :mod:`engine.types` only."""
