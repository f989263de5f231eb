"""Every table and figure of the PMPD paper (arXiv 2410.13461): its value, ours, the difference and why."""
