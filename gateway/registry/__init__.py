"""Public names: each owns versions of a model or an adapter, and says which of them a request gets."""
