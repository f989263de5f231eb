HELP = """todo

examples:
  bittaper evaluate
"""


def configure(parser):
    pass


def run(args):
    pass
