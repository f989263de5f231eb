HELP = """todo

examples:
  bittaper quantize
"""


def configure(parser):
    pass


def run(args):
    pass
