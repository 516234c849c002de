"""Real servers, shards and environments, a few at a time."""
