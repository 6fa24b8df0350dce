"""Speech: an uploaded sound, decoded within bounds, given to a model that writes down what was said."""
