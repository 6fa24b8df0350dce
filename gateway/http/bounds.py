"""How much one peer may send, hold or delay. Every bound of the front is here, with its default."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HttpBounds:
    """Bounds of the HTTP front. Sizes are in bytes, times in seconds, rates in bytes per second.

    ``max_header_bytes`` counts the header section without the request line, ``max_header_line`` one field line.
    ``max_chunk_overhead`` bounds all chunk extensions and trailers of one request together.
    ``max_body_bytes`` is the default limit of a body; a route may set its own through the response stream.
    ``body_timeout`` is the whole time a body may take; below ``min_rate`` it is cut after ``body_grace``.
    ``write_stall_timeout``: a peer that leaves the send buffer full this long, draining less than ``min_rate``,
    is cut. ``send_buffer_bytes`` bounds what one connection may keep unsent (kernel and process together).
    ``linger_timeout`` and ``linger_bytes``: how long and how much input is read and dropped so that a peer that
    is still sending gets to read the answer: clients that send a body larger than allowed read nothing before its end.
    ``discard_bytes``: the rest of a body that is read and dropped so that its connection can be used again.
    ``allowed_hosts``: host names without port; None allows any.
    ``shared_port``: other processes of ours listen on the same port, and the kernel divides what comes (SO_REUSEPORT).
    """

    max_header_bytes: int = 32_768
    max_header_line: int = 16_384
    max_headers: int = 100
    max_target_bytes: int = 8_192
    max_body_bytes: int = 10 * 1024 * 1024
    max_chunk_overhead: int = 4_096
    max_read_ahead: int = 65_536
    max_connections: int = 20_000
    header_timeout: float = 10.0
    idle_timeout: float = 60.0
    body_timeout: float = 30.0
    body_grace: float = 5.0
    min_rate: int = 1_024
    write_stall_timeout: float = 30.0
    send_buffer_bytes: int = 262_144
    linger_timeout: float = 2.0
    linger_bytes: int = 32 * 1024 * 1024
    discard_bytes: int = 65_536
    sweep_interval: float = 0.25
    allowed_hosts: tuple[str, ...] | None = None
    shared_port: bool = False
