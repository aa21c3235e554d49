"""Load workers without their trial: `kit.load.worker.worker` with a standard input that stays open.

`alone.py FOLDER WORKERS ENDPOINT_JSON` runs that many, one of them in this process. With
KIT_BENCH_BUSY_MS that one is kept from its work for so long, half of the time.
"""

import os
import subprocess
import sys
import threading
import time

from kit.load.worker.worker import main


def keep_busy(busy_s: float) -> None:
    """Hold the interpreter for `busy_s`, then leave it for as long; for ever."""
    while True:
        time.sleep(busy_s)
        end = time.monotonic() + busy_s
        while time.monotonic() < end:
            pass


if __name__ == "__main__":
    busy_ms = float(os.environ.get("KIT_BENCH_BUSY_MS") or 0)
    if busy_ms:
        sys.setswitchinterval(1.0)  # it is not taken away meanwhile
        threading.Thread(target=keep_busy, args=(busy_ms / 1e3,), daemon=True).start()
    folder, workers, endpoint = sys.argv[1:]
    read, write = os.pipe()  # nobody writes; the end of file would stop a worker
    os.dup2(read, 0)
    others = [
        subprocess.Popen(
            [sys.executable, "-P", "-m", "kit.load.worker.worker", folder, str(w), endpoint]
        )
        for w in range(1, int(workers))
    ]
    codes = [main([folder, "0", endpoint]), *(other.wait() for other in others)]
    sys.exit(max(map(abs, codes)))
