"""What the launcher was asked for, from its variables and from its command."""

import pytest

from sot_nlp.settings import launcher
from sot_nlp.settings.arguments import build_arguments

# As `accelerate launch` sets them where it is asked for nothing.
PLAIN = {
    "ACCELERATE_MIXED_PRECISION": "no",
    "ACCELERATE_USE_CPU": "False",
    "ACCELERATE_DYNAMO_BACKEND": "NO",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
    "ACCELERATE_GRADIENT_CLIPPING": "none",
}


@pytest.mark.parametrize(
    ("variables", "settings"),
    [
        ({}, {}),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, {"mixed_precision": "bf16"}),
        ({"ACCELERATE_USE_CPU": "True"}, {"cpu": True}),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, {"gradient_accumulation_steps": 4}),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "auto"}, {}),
        ({"ACCELERATE_GRADIENT_CLIPPING": "0.5"}, {"max_grad_norm": 0.5}),
    ],
)
def test_variables(variables, settings):
    assert launcher.from_environment({**PLAIN, **variables}) == settings


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        ("run.py", {}),
        ("--mixed_precision no run.py --mixed_precision bf16", {"mixed_precision": "no"}),
        ("--gradient_accumulation_steps=4 run.py", {"gradient_accumulation_steps": 4}),
        ("--config_file FILE -m sot_nlp.cli train", {"mixed_precision": "no"}),
        ("--config_file FILE --mixed_precision bf16 run.py", {"mixed_precision": "bf16"}),
    ],
)
def test_the_launchers_own_command(tmp_path, monkeypatch, words, settings):
    file = tmp_path / "config.yaml"
    file.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: 'NO'\nmixed_precision: 'no'\n"
        "num_processes: 1\nuse_cpu: false\n"
    )
    monkeypatch.setattr(
        "accelerate.commands.config.config_args.default_config_file", str(tmp_path / "none.yaml")
    )
    given = ["python", "/bin/accelerate", "launch", *words.replace("FILE", str(file)).split()]
    assert launcher.from_command(given) == settings


@pytest.mark.parametrize("words", [["bash"], ["torchrun", "launch"], []])
def test_another_parent_says_nothing(words):
    assert launcher.from_command(words) == {}


def test_a_flag_counts_more_than_the_launcher_and_the_launcher_more_than_the_recipe():
    layers = [
        ("recipe of x", {"gradient_accumulation_steps": 2}),
        (launcher.SOURCE, {"mixed_precision": "no"}),
    ]
    arguments = build_arguments([*layers, ("flag", {"mixed_precision": "bf16"})])
    assert (arguments.mixed_precision, arguments.sources["mixed_precision"]) == ("bf16", "flag")
    arguments = build_arguments([*layers, (launcher.SOURCE, {"gradient_accumulation_steps": 4})])
    assert arguments.gradient_accumulation_steps == 4
    assert arguments.sources == {
        "gradient_accumulation_steps": launcher.SOURCE,
        "mixed_precision": launcher.SOURCE,
    }
