"""One front-end worker: the whole gateway, on an engine that its parent holds."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from multiprocessing.connection import Connection

from gateway.settings import SettingsError
from gateway.workers.fit import part
from gateway.workers.messages import Job
from gateway.workers.parent import Parent

#: Seconds in which the engine greets a client: it runs already when a place is given.
_GREETING_SECONDS = "60"


def main(descriptor: int) -> int:
    """Serve until the parent says otherwise; the exit status."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Whoever signals a whole group means the parent, which tells us. Not ignored: children would inherit that.
        signal.signal(number, lambda _number, _frame: None)
    os.set_inheritable(descriptor, False)
    os.environ.setdefault("VLLM_ENGINE_READY_TIMEOUT_S", _GREETING_SECONDS)
    connection = Connection(descriptor)
    job = connection.recv()
    assert isinstance(job, Job)
    # Only now: what the parent has put into the environment must be there before heavy libraries read it.
    from gateway.reload.following import Led
    from gateway.serve import serve

    own = partial(part, index=job.index)
    parent = Parent(connection, late=job.late)
    led = Led(job.generation, own, parent.reload)
    try:
        return serve(own(job.settings), [job.served], parent=parent, led=led)
    except SettingsError as error:
        sys.stderr.write(f"sluice: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
