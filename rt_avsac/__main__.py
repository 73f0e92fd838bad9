"""`python -m rt_avsac` = `rt-avsac`."""

import sys

from rt_avsac.cli import main

sys.exit(main())
