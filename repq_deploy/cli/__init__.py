"""The command line: one verb a file, with what they share in ``common``."""
