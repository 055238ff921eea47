"""Scripts a person runs: each lecture topic shown on real data, into `results/<name>/`.

Unlike the library, this package may read files, draw, print and show progress.
"""

import os

# Figures are saved, not shown: no window system is needed. A notebook has set its own by now.
os.environ.setdefault("MPLBACKEND", "Agg")
