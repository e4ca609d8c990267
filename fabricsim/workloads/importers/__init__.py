"""Recordings of other tools, converted into the collective trace; one module per format."""
