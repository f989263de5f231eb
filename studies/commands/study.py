HELP = """todo

examples:
  bittaper study
"""


def configure(parser):
    pass


def run(args):
    pass
