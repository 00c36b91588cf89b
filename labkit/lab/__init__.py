"""Labs: start real shards, load them, break them, put them right."""
