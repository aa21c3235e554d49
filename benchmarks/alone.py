"""One load worker without its trial: `kit.load.worker` with a standard input that stays open."""

import os
import sys

from kit.load.worker import main

if __name__ == "__main__":
    read, write = os.pipe()  # nobody writes; the end of file would stop the worker
    os.dup2(read, 0)
    sys.exit(main(sys.argv[1:]))
