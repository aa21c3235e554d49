"""Statistics of crashes and latencies; frames or counts in, numbers with their intervals out."""
