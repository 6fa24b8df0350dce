"""Prompts are computed by another process, whose KV cache this one goes on from."""
