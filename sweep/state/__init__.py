"""What is known about runs: their state, jobs on the way, failures by class, and their repair.

`status` lists the states of a run, `decision` the rules that decide between them, `plan` applies
them to a grid, `display` shows them. Classes of failure are in `triage`, what a retry changes in
`repair`.
"""
