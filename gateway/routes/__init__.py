"""Thin endpoints per resource: decode, call the pipeline, encode."""
