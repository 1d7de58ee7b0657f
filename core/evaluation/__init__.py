"""Evaluations of a trained model, one file per kind, and the queue that keeps batches full.

`kinds` maps each kind to the file that measures it; `queue` (APGD) and `minimal` (FMN) attack
through `slots`; `audit` and `opinion` check what APGD found.
"""
