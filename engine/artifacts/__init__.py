"""Files of models that strangers hand in: what they are, read from their headers, and whether they may stay."""
