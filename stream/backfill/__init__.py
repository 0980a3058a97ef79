"""History from files: behaviours and labelled impressions, sorted by time, into the topics, each once."""
