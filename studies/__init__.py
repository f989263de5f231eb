"""Studies, the command line and the report: the only place that wires everything."""
