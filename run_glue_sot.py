"""Fine-tune a text classifier with the SoT head: `accelerate launch run_glue_sot.py --task cola`."""

import sys

from sot_nlp.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]], prog="run_glue_sot.py"))
