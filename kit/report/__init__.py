"""Reports of a study: one self-contained HTML page, and the result as JSON."""
