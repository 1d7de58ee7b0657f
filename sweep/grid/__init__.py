"""From a grid file to its runs: the grammar, its expansion, filters, and the tune block."""

from sweep.grid.definition import Grid as Grid
from sweep.grid.definition import load as load
from sweep.grid.definition import parse as parse
from sweep.grid.definition import select as select
from sweep.grid.definition import shipped as shipped
from sweep.grid.expansion import Run as Run
