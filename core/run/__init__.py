"""One run from end to end: prepare, train, evaluate, record; and one trial of a search."""
