"""The log: `pipeline.py` makes lines of what is said, `line.py` is what is said of a request, `sink.py` writes."""
