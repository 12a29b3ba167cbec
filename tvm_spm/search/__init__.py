"""One searcher per file; each asks and is told."""
