"""The benchmark's datasets: from an official archive or folder to shared uint8 arrays.

    datasets.yaml --entries--> Entry;  folder --read_release--> Contents --arrays.prepare--> arrays

Torch-free, so that `sweep launch` can check datasets before submitting anything.

`read.READERS` lists a reader for each release; `lists`, `folders` and `matlab` hold them by the
format of the release's labels. Users' own image folders are read by `own`; `idx` and `fonts` make
such folders.
"""
