"""``python -m cellfuse.cli``."""

import sys

from cellfuse.cli import main

sys.exit(main())
