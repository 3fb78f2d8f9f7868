"""What the studies share: which searches to run, reading them, tables, figures."""
