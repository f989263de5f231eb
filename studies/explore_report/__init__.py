"""The report of an exploration: tables, figures, one HTML page and the same as Markdown."""
