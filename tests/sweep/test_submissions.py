"""What a submission leaves in the store: manifests that nobody overwrites or could have written."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from core.store.folders import Store
from core.store.json_files import read_jsonl
from sweep.submit import submissions


def test_a_manifest_stays_although_an_older_one_is_deleted(store: Store) -> None:
    """A queued job will read it."""
    sweep = store.sweep("s")
    first, second, third = (submissions.write_manifest(sweep, [{"id": str(n)}]) for n in range(3))
    first.unlink()
    fourth = submissions.write_manifest(sweep, [{"id": "new"}])
    assert [row["id"] for path in (second, third) for row in read_jsonl(path)] == ["1", "2"]
    assert sorted(sweep.path.glob("submission-*.jsonl")) == [second, third, fourth]
    fourth.unlink()
    assert submissions.write_manifest(sweep, []).name != fourth.name, "its jobs may still be queued"


def test_two_launchers_at_the_same_moment_have_a_manifest_each(store: Store) -> None:
    sweep = store.sweep("s")
    with ThreadPoolExecutor(8) as pool:
        paths = [
            *pool.map(lambda n: submissions.write_manifest(sweep, [{"id": str(n)}]), range(16))
        ]
    assert [read_jsonl(path) for path in paths] == [[{"id": str(n)}] for n in range(16)]
