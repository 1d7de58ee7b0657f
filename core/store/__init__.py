"""What a run writes to disk: folders, claims, records, checkpoints, snapshots, tracking.

The run folder is the only source of truth about a run. Files are replaced atomically; all but
checkpoints and per-image flags are JSON, JSONL or YAML.

`shapes` says what is in each file, `folders` where it is, `records` what the numbers mean,
`tracking` what W&B gets; nothing else in core talks to a tracking service.
"""
