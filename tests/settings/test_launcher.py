"""What the launcher was asked for, from its variables and from its command."""

import pytest
import torch
from accelerate.utils import DynamoBackend

from sot_nlp.cli import ALONE, main
from sot_nlp.commands import probe
from sot_nlp.settings import launcher
from sot_nlp.settings.arguments import build_arguments
from sot_nlp.tasks.recipe import layered_arguments
from sot_nlp.training.distributed import create_accelerator
from sot_nlp.training.model_setup import compile_options, compile_problem, prepare

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
        ({"ACCELERATE_DYNAMO_BACKEND": "EAGER"}, {"torch_compile": True}),
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


@pytest.fixture
def launched(monkeypatch):
    """As a process that `accelerate launch` started, asked for the variables given."""

    def launch(**variables):
        for name, value in {**PLAIN, **variables}.items():
            monkeypatch.setenv(name, value)

    return launch


@pytest.mark.parametrize("count", [1, 2])
def test_processes_that_accelerate_does_not_start_on_a_cpu_are_said(launched, monkeypatch, caplog, count):
    launched(ACCELERATE_USE_CPU="true")
    words = ["python", "/bin/accelerate", "launch", "--cpu", "--num_processes", str(count), "run.py"]
    monkeypatch.setattr(launcher, "_command", lambda: words)
    create_accelerator(layered_arguments({}, None))
    assert ("`torchrun --nproc_per_node 2` starts as many" in caplog.text) == (count == 2)


def test_our_own_flag_says_otherwise(launched):
    launched(ACCELERATE_DYNAMO_BACKEND="EAGER", ACCELERATE_MIXED_PRECISION="bf16", ACCELERATE_USE_CPU="true")
    arguments = layered_arguments({}, None)
    assert (arguments.torch_compile, arguments.mixed_precision, arguments.cpu) == (True, "bf16", True)
    assert set(arguments.sources.values()) == {launcher.SOURCE}
    given = {"torch_compile": "false", "mixed_precision": "no", "cpu": "false"}
    arguments = layered_arguments(given, None)
    assert (arguments.torch_compile, arguments.mixed_precision, arguments.cpu) == (False, "no", False)


def test_the_loop_compiles_as_the_launcher_was_told_and_accelerate_does_not(launched):
    assert compile_options() == {"dynamic": True}
    launched(ACCELERATE_DYNAMO_BACKEND="EAGER", ACCELERATE_DYNAMO_USE_FULLGRAPH="True")
    options = compile_options()
    assert (options["backend"], options["fullgraph"], options["dynamic"]) == ("eager", True, True)
    assert compile_problem(options) is None
    for compiled in ("true", "false"):
        arguments = layered_arguments({"torch_compile": compiled, "cpu": True}, None)
        accelerator = create_accelerator(arguments)
        assert accelerator.state.dynamo_plugin.backend == DynamoBackend.NO
        model = torch.nn.Linear(2, 2)
        prepare(model, arguments, warn=pytest.fail)
        assert (model._compiled_call_impl is not None) == (compiled == "true")


def test_the_runs_of_a_study_are_those_that_the_launcher_was_asked_for(launched, capsys):
    launched(ACCELERATE_MIXED_PRECISION="bf16", ACCELERATE_GRADIENT_ACCUMULATION_STEPS="4")
    words = ["compare", "--tasks", "cola", "--models", "m", "--heads", "sot", "--seeds", "1", "--plan"]
    assert main([*words, "--gradient_accumulation_steps", "2"]) == 0
    out, err = capsys.readouterr()
    assert "--mixed_precision=bf16" in out
    assert "--gradient_accumulation_steps=2" in out
    assert err == "from accelerate launch: mixed_precision bf16\n"


def test_a_probe_says_what_is_not_for_it(launched, capsys):
    launched(ACCELERATE_MIXED_PRECISION="bf16", ACCELERATE_USE_CPU="true")
    assert probe._arguments(["--task", "cola"], "sot-nlp probe")[0].cpu
    expected = "from accelerate launch: mixed_precision bf16: not for a probe, whose passes are in fp32\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("command", ALONE)
def test_what_runs_in_one_process_says_so(command, monkeypatch, capsys):
    for name, value in {"RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert main([command, "x"]) == 2
    assert f"`sot-nlp {command}` runs in one process, but was started in 2" in capsys.readouterr().err
