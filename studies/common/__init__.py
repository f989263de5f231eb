"""What several commands and studies share: output, plot style, report."""
