"""What outlives the process and is shared by replicas: keys, usage, audit."""
