"""A folder a kind of test, and what several of them share."""
