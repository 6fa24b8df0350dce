"""What the converters have in common: each is a process of its own that ends with whoever started it."""

from __future__ import annotations

import os
import threading


def end_with_parent() -> None:
    """End this process when its standard input does.

    A parent killed outright cannot tell us; the kernel closes its end of the pipe.
    """

    def watch() -> None:
        os.read(0, 1)  # not sys.stdin: its lock, held here, would abort the interpreter's own end
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
