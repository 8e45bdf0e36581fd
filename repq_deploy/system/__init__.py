"""The operating system's side: files that are written whole, memory, child processes, signals."""
