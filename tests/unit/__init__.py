"""One module or function at a time, without servers."""
