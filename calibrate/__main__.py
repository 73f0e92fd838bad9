"""`python -m calibrate`."""

import sys

from calibrate.run import main

if __name__ == "__main__":
    sys.exit(main())
