"""What mypy must refuse: each line that ends in `# error: <code>`, with that code, and no other line."""

from __future__ import annotations

import flowstage

nonsense: int = flowstage.__name__  # error: assignment
