"""What a run writes to disk: folders, claims, records, checkpoints, snapshots, tracking.

The run folder is the only source of truth about a run. Files are replaced atomically; all but
checkpoints and per-image flags are JSON, JSONL or YAML.
"""
