"""``python -m cellfuse``, where the command is not on the path."""

import sys

from cellfuse.cli import main

sys.exit(main())
