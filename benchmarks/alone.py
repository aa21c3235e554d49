"""Load workers without their trial: `kit.load.worker.worker` with a standard input that stays open.

`alone.py FOLDER WORKERS ENDPOINT_JSON` runs that many, one of them in this process.
"""

import os
import subprocess
import sys

from kit.load.worker.worker import main

if __name__ == "__main__":
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
