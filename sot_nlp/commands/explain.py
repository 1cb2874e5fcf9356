"""`sot-nlp explain FOLDER --text ...`: which words drive a model's decision."""

from sot_nlp.explain_command import main as run

__all__ = ["run"]
