HELP = """todo

examples:
  bittaper trace
"""


def configure(parser):
    pass


def run(args):
    pass
