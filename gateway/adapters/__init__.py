"""Adapters as the gateway sees them: which there are, whose they are, where they come from."""
