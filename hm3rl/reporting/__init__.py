"""What people look at: run loggers, the front as a table, figures."""
