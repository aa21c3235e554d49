"""Statistics of crashes and latencies, with intervals."""
