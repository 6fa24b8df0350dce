"""Responses that are kept for their callers."""
