"""Images that requests name: from where they may come, and how much of them."""

from __future__ import annotations

from pydantic import Field, IPvAnyNetwork

from gateway.settings.section import Section


class MediaSettings(Section):
    """Images in requests: where they may come from, and what fetching and decoding them may cost."""

    fetch: bool = Field(True, description="Fetch http(s) URLs; without it images come as data: URLs only.")
    allowed_hosts: list[str] = Field(
        [], description="Hosts that images may come from, `*.example.com` for all below one; default: any public host."
    )
    allowed_networks: list[IPvAnyNetwork] = Field(
        [], description="Networks that may be connected to although they are not public, such as 10.1.0.0/16."
    )
    allowed_ports: list[int] = Field([80, 443], min_length=1, description="Ports that may be connected to.")
    max_images: int = Field(16, ge=0, description="Images of one request; 0: no model takes any.")
    image_bytes: int = Field(20 * 2**20, ge=1, description="Bytes of one image.")
    request_bytes: int = Field(64 * 2**20, ge=1, description="Bytes of all images of one request.")
    request_pixels: int = Field(40_000_000, ge=1, description="Pixels of all images of one request, once decoded.")
    image_seconds: float = Field(5.0, gt=0, description="Seconds to fetch one image, redirects and all.")
    request_seconds: float = Field(60.0, gt=0, description="Seconds to fetch and decode all images of one request.")
    dns_seconds: float = Field(2.0, gt=0, description="Seconds that a look-up of a host's name may take.")
    redirects: int = Field(3, ge=0, le=10, description="Redirects to follow, each checked like the first URL.")
    parallel: int = Field(4, ge=1, description="Images of one request that are fetched at once.")
    requests: int = Field(8, ge=1, description="Requests that fetch images or hold pictures at once; others wait.")
    requests_per_tenant: int = Field(4, ge=1, description="The same, of one tenant.")
