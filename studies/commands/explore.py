HELP = """todo

examples:
  bittaper explore
"""


def configure(parser):
    pass


def run(args):
    pass
