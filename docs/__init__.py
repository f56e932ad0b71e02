"""The documentation by task; `python -m docs.make` fills in what is known from the sources."""
