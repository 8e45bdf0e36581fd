"""What a command is to a shell: its progress on stderr, the completion of its words, and the list of all verbs."""
