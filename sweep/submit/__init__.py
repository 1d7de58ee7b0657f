"""Handing runs to what executes them: this process, local workers, Slurm or another scheduler.

One file per backend (`in_process`, `local`, `array` for Slurm, `ray`, `plugin`), behind the
interface in `backend`; `backends` finds one by the executor of a profile. What they submit is an
`order`.
"""
