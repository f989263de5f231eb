"""One module a subcommand: HELP, configure(parser), run(args)."""
