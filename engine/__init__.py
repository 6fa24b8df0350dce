"""The models: vLLM in-process, behind the small facade of :mod:`engine.types`. Never imports ``gateway``."""
