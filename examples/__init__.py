"""Ready configurations, and the tasks of their own that some of them name."""
