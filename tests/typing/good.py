"""What type checkers must accept: each name used once, and what its type turns out to be."""

from __future__ import annotations

from typing import assert_type

import flowstage

assert_type(flowstage.__name__, str)
