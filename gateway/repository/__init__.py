"""Models that callers upload: taken part by part, checked, and put in place whole or not at all."""
