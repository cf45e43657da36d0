"""The commands, a file per group. Each opens with its flags and ends with what it prints."""
