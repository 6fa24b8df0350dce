"""Settings that change while the server runs: read anew, checked whole, swapped at once."""
