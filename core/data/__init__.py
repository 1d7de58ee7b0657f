"""Images and labels of a run: splits as uint8 arrays, drawn datasets, checks of required files."""
