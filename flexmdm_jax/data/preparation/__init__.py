"""From a corpus to a dataset: splitting, units of work, and who does it."""
