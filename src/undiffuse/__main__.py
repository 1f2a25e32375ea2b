"""`python -m undiffuse` is `undiffuse`."""

import sys

from undiffuse.cli import main

sys.exit(main())
