"""`sot-nlp push FOLDER`: push a finished run to the Hub."""

from __future__ import annotations

from collections.abc import Sequence

from sot_nlp.settings.flag_parser import FlagParser


def run(argv: Sequence[str], prog: str) -> int:
    """Push model, tokenizer and model card, and print the commit's address."""
    parser = FlagParser(prog=prog, description="Push a run's model, tokenizer and model card to the Hub.")
    parser.add_argument("folder", metavar="FOLDER", help="the folder of a run")
    parser.add_argument("--hub_model_id", required=True, metavar="USER/NAME", help="the repository")
    parser.add_argument("--hub_private_repo", action="store_true", help="make a new repository private")
    parser.add_argument("--hub_token", metavar="TOKEN", help="default: the one of `hf auth login`")
    parser.add_argument("--revision", metavar="BRANCH", help="default: main")
    parser.add_argument("--license", metavar="ID", help="the model's licence, as the Hub names it")
    given = parser.parse_args(argv)
    from sot_nlp.publishing import hub

    url = hub.push(
        given.folder,
        repo_id=given.hub_model_id,
        private=given.hub_private_repo,
        token=given.hub_token,
        revision=given.revision,
        license=given.license,
    )
    print(url)
    return 0
