"""Performance claims as scripts: each prints a table and writes its rows with --json FILE."""
