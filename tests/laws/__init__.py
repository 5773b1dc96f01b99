"""Random graphs, what they should give in plain lists, and runs that are compared with it.

`streams` is the list model of a flow. `parts`, `calls`, `joins` and `operators` are the pieces of a graph:
each knows how to be written in flowstage and what it does to lists; `world` is what they share. `cases`
puts them together at random. `play` runs a case and checks all laws, with `counts` for the accounts,
`latest` for the rows of a `zip_latest` and `hooks` for what observers were told.
"""

from .cases import Case, generate
from .play import Broken, Play, play

__all__ = ["Broken", "Case", "Play", "generate", "play"]
