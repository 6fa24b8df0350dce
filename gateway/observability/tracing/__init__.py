"""Traces: one per request, from its head to the phases of the engine, sent to an OTLP collector."""
