"""The console: one page of static files that shows what the API tells the key that is typed into it."""
