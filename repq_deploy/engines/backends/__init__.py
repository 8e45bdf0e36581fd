"""One file a runtime: what it takes, how it is built for and run."""
