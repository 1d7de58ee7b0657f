"""What a run leaves on disk: folders, claims, records, checkpoints, snapshots, tracking.

A run folder is the only truth about a run. Files are replaced atomically; all but checkpoints and
per-image flags are JSON, JSONL or YAML.
"""
