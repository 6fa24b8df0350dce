"""Several front-end processes on one engine: a small parent holds the engine and the workers (docs/scale-out.md)."""
