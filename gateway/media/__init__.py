"""Images that requests name: fetched under guard, decoded under bounds."""

from gateway.media.stage import Media, MediaLimits

__all__ = ["Media", "MediaLimits"]
