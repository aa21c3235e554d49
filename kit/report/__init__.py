"""A study in, one self-contained HTML page and its result as JSON out."""
