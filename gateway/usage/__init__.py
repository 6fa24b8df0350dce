"""What was used, by whom: the life of every admitted request, written once."""
