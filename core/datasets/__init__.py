"""The benchmark's datasets: from an official archive or folder to shared uint8 arrays.

    datasets.yaml --entry--> Entry;  folder --read--> Contents (verified) --arrays.prepare--> arrays

Torch-free: launching checks what is there before anything is submitted.
"""
