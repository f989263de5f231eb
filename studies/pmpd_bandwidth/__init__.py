"""The least bandwidth that keeps a speed at no loss of quality: PMPD against uniform widths."""
