"""Output that is held to a schema or a grammar: what may be asked for, and how the engine is told."""
