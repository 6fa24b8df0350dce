"""The agent loop: model turns through the pipeline, and the tools that the server runs between them."""
