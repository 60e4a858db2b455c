"""The server's process: ``python -m monailabel_app.serving start_server …``, as `monailabel.main` but never orphaned.

It watches its launcher before it imports anything large: a server whose launcher was killed in that moment would go
on alone, and hold its port and its studies.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from monailabel_app.conf import PARENT


def end_with(parent: int) -> None:
    """End this process soon after its parent has gone, however that went."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
        os._exit(1)  # what was waited for did not end

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()


def main() -> None:
    """Watch the launcher, then serve."""
    if parent := os.environ.get(PARENT):
        end_with(int(parent))

    from monailabel_app.jobs.starting import start_first

    start_first(sys.argv[1:])

    from doselabel.model.lean import import_monai
    from monailabel_app.startup import mark

    mark("checks before the start, and Python itself")
    import_monai()
    from monailabel.main import Main

    Main().run()


if __name__ == "__main__":
    main()
