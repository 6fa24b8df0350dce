"""The strict HTTP/1.1 front: raw bytes to ASGI, with every size and every wait bounded."""
