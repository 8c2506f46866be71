import sys

from florence2_sam2.cli import main

sys.exit(main())
