"""From a grid file to its runs: the grammar, its expansion, filters, and the tune block.

`keys` reads the keys of a file, `fields` the fields they set, `expansion` makes the runs of them. A
`search` is what a tune block asks for.
"""

from sweep.grid.definition import Grid as Grid
from sweep.grid.definition import load_grid as load_grid
from sweep.grid.definition import parse_grid as parse_grid
from sweep.grid.definition import select_runs as select_runs
from sweep.grid.definition import shipped_grids as shipped_grids
from sweep.grid.expansion import Run as Run
