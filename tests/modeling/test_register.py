"""Parts of a user's own: chosen by name, trained, saved, loaded; and every refusal."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, BertConfig

import sot_nlp
from sot_nlp import (
    AutoSoTForSequenceClassification,
    Normalization,
    SoTHead,
    UserError,
    load_tokenizer,
    register_head,
    register_normalization,
    register_pooling,
    resolve_head,
)
from sot_nlp.cli import main
from sot_nlp.inference import export
from sot_nlp.modeling import parts
from sot_nlp.modeling.head_config import PRESETS
from sot_nlp.modeling.remote_code import modeling_files
from tests.support import own_parts

C, K = 16, 3
MASK = torch.tensor([[0, 1, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0]]).bool()
OWN = {
    "pooling": {"pooling": "soft_maximum", "normalization": "none", "part_settings": {"sharpness": 3.0}},
    "normalization": {"normalization": "tempered", "num_layers": 2},
    "fusion": {"fusion": "gated"},
    "all": {"pooling": "soft_maximum", "normalization": "tempered", "fusion": "gated"},
}


@pytest.fixture
def registry() -> Iterator[None]:
    """Leaves the registry as it was."""
    before = {kind: dict(named) for kind, named in parts.REGISTRY.items()}
    yield
    for kind, named in parts.REGISTRY.items():
        named.clear()
        named.update(before[kind])


def batch(folder: Path) -> dict[str, Any]:
    texts = ["the zorp runs .", "every wug", "no"]
    inputs = load_tokenizer(folder)(texts, padding=True, return_tensors="pt")
    return {**inputs, "labels": torch.tensor([0, 1, 2])}


def test_a_soft_maximum_by_hand() -> None:
    config = resolve_head("words", **OWN["pooling"])
    head = SoTHead(config, hidden_size=1, num_labels=1).double().eval()
    hidden = torch.tensor([[[9.0], [1.0], [2.0], [0.5]]], dtype=torch.float64)
    pooled = head.pool(hidden, MASK[:1])
    expected = torch.log(torch.tensor([3.0, 6.0, 1.5], dtype=torch.float64).exp().mean()) / 3
    assert pooled.item() == pytest.approx(expected.item())
    assert head.pool(hidden, MASK[2:]).item() == 0


@pytest.mark.parametrize("kind", OWN)
def test_own_parts_train_save_and_load(kind: str, backbone_folder: Any, tmp_path: Path) -> None:
    folder = backbone_folder("bert")
    model = AutoSoTForSequenceClassification.from_pretrained(
        folder, num_labels=3, head=PRESETS["text"].replace(dropout=0, **OWN[kind])
    )
    if kind in ("normalization", "all"):
        assert model.classifier.words.normalization.temperature.item() == 2, "its own first value"
    inputs = batch(folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        loss = model.train()(**inputs).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(parameter.grad is not None for parameter in model.classifier.parameters())
    assert losses[-1] < losses[0]
    model.save_pretrained(tmp_path)
    again = AutoSoTForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(again(**inputs).logits, model.eval()(**inputs).logits)
    assert again.config.head_config == model.config.head_config
    assert json.loads((tmp_path / "config.json").read_text())["head"]["alpha"] == 0.5


def test_an_exact_part_has_exact_contributions() -> None:
    head = SoTHead(resolve_head("text", normalization="tempered"), hidden_size=C, num_labels=K).eval()
    hidden = torch.randn(3, 4, C)
    shares = head.word_contributions(hidden, MASK).sum(1) + head.word_output.bias
    torch.testing.assert_close(shares, head(hidden, MASK, hidden[:, 0]).word_logits)
    for inexact in ("pooling", "fusion"):
        other = SoTHead(resolve_head("text", **OWN[inexact]), hidden_size=C, num_labels=K).eval()
        with pytest.raises(ValueError, match="no exact contributions"):
            other.word_contributions(hidden, MASK)


@pytest.mark.parametrize("by", ["from_pretrained", "from_config", "SoTHead"])
def test_a_ready_module_is_the_head(by: str, backbone_folder: Any, tmp_path: Path) -> None:
    module = own_parts.TwoLayers(32, 3, width=5)
    weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    if by == "SoTHead":
        head = SoTHead(module, hidden_size=32, num_labels=3)
        hidden, mask = torch.randn(2, 4, 32), MASK[:2]
        assert torch.equal(head(hidden, mask, hidden[:, 0]).logits, module(hidden, mask, hidden[:, 0]))
    else:
        folder = backbone_folder("bert")
        build = getattr(AutoSoTForSequenceClassification, by)
        source = folder if by == "from_pretrained" else AutoConfig.from_pretrained(folder)
        model = build(source, num_labels=3, head=module).eval()
        assert model.classifier.module is module
        model.save_pretrained(tmp_path)
        again = AutoSoTForSequenceClassification.from_pretrained(tmp_path)
        assert again.classifier.module.settings == {"width": 5}
        assert torch.equal(again(**batch(folder)).logits, model(**batch(folder)).logits)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, weights[name]), "the weights that it had"


def test_a_module_of_other_labels_is_refused() -> None:
    head = SoTHead(own_parts.TwoLayers(C, 2), hidden_size=C, num_labels=K)
    with pytest.raises(ValueError, match="gives 2 logits, but there are 3 labels"):
        head(torch.randn(2, 4, C), MASK[:2], torch.randn(2, C))


class Raw(Normalization):
    """With a parameter whose first value nothing sets."""

    def __init__(self, config: Any, widths: tuple[int, ...]) -> None:
        super().__init__(config, widths)
        self.factor = nn.Parameter(torch.ones(1))


@pytest.mark.usefixtures("registry")
class TestRefusals:
    def test_names_and_classes(self) -> None:
        with pytest.raises(ValueError, match="'svpn' is there already"):
            register_normalization("svpn", own_parts.Tempered)
        with pytest.raises(ValueError, match=r"is no subclass of sot_nlp\.WordPooling"):
            register_pooling("wrong", own_parts.Tempered)  # another kind's
        with pytest.raises(ValueError, match="'a b': a name is made of letters"):
            register_pooling("a b", own_parts.SoftMaximum)
        with pytest.raises(ValueError, match=r"own setting sharpness=\[1\] is no number"):
            register_pooling("fine", own_parts.SoftMaximum, own_settings={"sharpness": [1]})
        with pytest.raises(ValueError, match="takes hidden_size and num_labels"):
            register_head("line", nn.Linear)
        with pytest.raises(ValueError, match="takes hidden_size and num_labels"):
            resolve_head(nn.Linear(2, 2))

    def test_settings(self) -> None:
        with pytest.raises(ValueError, match=r"no setting 'sharpnes' \(did you mean sharpness"):
            resolve_head("text", **OWN["pooling"] | {"part_settings": {"sharpnes": 1}})
        with pytest.raises(ValueError, match=r"no setting 'sharpness' \(known: \)"):
            resolve_head("text", part_settings={"sharpness": 1})
        with pytest.raises(ValueError, match=r"'tempred' is not one of .*your own: import its file first"):
            resolve_head("text", normalization="tempred")
        with pytest.raises(ValueError, match=r"module='TwoLayer' is not registered; .* import its file"):
            resolve_head("text", module="TwoLayer")

    def test_a_parameter_without_a_first_value(self) -> None:
        register_normalization("raw", Raw)
        config = resolve_head("text", normalization="raw")
        with pytest.raises(ValueError, match=r"Raw has parameters of its own \(factor\) whose first values"):
            SoTHead(config, hidden_size=C, num_labels=K)


@pytest.mark.usefixtures("registry")
def test_a_saved_part_is_registered_from_beside_the_checkpoint_for_who_trusts_it(
    backbone_folder: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tripled = NORM.replace("return pooled", "return 3 * pooled")
    register_normalization("tripled", own_file(tmp_path, tripled, monkeypatch, "tripled").Own)
    folder = backbone_folder("bert")
    head = resolve_head("text", normalization="tripled", width_x=4, width_y=3)
    model = AutoSoTForSequenceClassification.from_pretrained(folder, num_labels=3, head=head).eval()
    saved, again = tmp_path / "saved", tmp_path / "again"
    model.save_pretrained(saved)
    load_tokenizer(folder).save_pretrained(saved)
    code = (saved / "tripled.py").read_text()
    (saved / "tripled.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n{code}")
    del parts.NORMALIZATIONS["tripled"]

    for trust in ({}, {"trust_remote_code": False}):
        with pytest.raises(ValueError, match=r"'tripled' is not one .*--plugin FILE.*trust_remote_code=True"):
            AutoSoTForSequenceClassification.from_pretrained(saved, **trust)
        with pytest.raises(UserError, match="'tripled' is not one of"):
            sot_nlp.load(saved, cpu=True, **trust)
    assert not (tmp_path / "ran").exists()
    loaded = AutoSoTForSequenceClassification.from_pretrained(saved, trust_remote_code=True)
    assert (tmp_path / "ran").exists()
    inputs = batch(saved)
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    # The part that was loaded travels on, and is known by now.
    loaded.save_pretrained(again)
    load_tokenizer(folder).save_pretrained(again)
    del parts.NORMALIZATIONS["tripled"]
    opened = sot_nlp.load(again, cpu=True, trust_remote_code=True)
    assert torch.equal(opened.model(**inputs).logits, model(**inputs).logits)
    assert torch.equal(
        AutoSoTForSequenceClassification.from_pretrained(saved)(**inputs).logits, model(**inputs).logits
    )
    # The commands, too, ask for that word.
    (tmp_path / "texts.txt").write_text("a red ball\n")
    space = tmp_path / "space"
    # (the command ends where the model is open; tests/inference/test_export.py has the rest)
    monkeypatch.setattr(export, "_write", opened_alone)
    for command, end in (
        (["predict", str(again), "--file", str(tmp_path / "texts.txt"), "--cpu"], 0),
        (["explain", str(again), "--text", "a red ball"], 0),
        (["serve", str(again), "--space", str(space)], 0),
        (["export", str(again)], 2),
    ):
        del parts.NORMALIZATIONS["tripled"]
        assert main(command) == 2
        assert "--trust_remote_code" in capsys.readouterr().err
        assert main([*command, "--trust_remote_code"]) == end
    assert "opened" in capsys.readouterr().err
    assert json.loads((space / "settings.json").read_text())["trust_remote_code"] is True
    assert (space / "model" / "tripled.py").is_file()


def opened_alone(*_: Any) -> None:
    raise UserError("opened")


def own_file(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch, name: str = "own_norm") -> Any:
    """Import a user's file with that text."""
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


NORM = """from sot_nlp import Normalization
class Own(Normalization):
    def forward(self, pooled):
        return pooled
"""


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("own_norm", f"import neighbour\n{NORM}", "line 1: imports neighbour, which would not travel along"),
        ("own_norm", f"import sot_nlp\n{NORM}", "line 1: write 'from sot_nlp import ...'"),
        ("own_norm", f"from sot_nlp import explain\n{NORM}", "line 1: imports explain, which would not"),
        ("tokens", NORM, "tokens.py has the name of a modelling file"),
        (
            "own_norm",
            "from sot_nlp import Normalization\ndef make():\n    class Own(Normalization): pass\n"
            "    return Own\nOwn = make()\n",
            "defined inside a function",
        ),
    ],
)
def test_what_cannot_travel_is_refused_in_one_line(
    name: str, text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "neighbour.py").write_text("")
    own = own_file(tmp_path, text, monkeypatch, name).Own
    register_normalization("own_norm", own)
    model = AutoSoTForSequenceClassification.from_config(
        BertConfig(
            vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
        ),
        head=resolve_head("text", normalization="own_norm"),
    )
    with pytest.raises(ValueError, match=message) as refused:
        model.save_pretrained(tmp_path / "saved")
    assert "\n" not in str(refused.value)
    model.save_pretrained(tmp_path / "without", save_remote_code=False)


def test_every_parts_file_is_among_the_modelling_files() -> None:
    files = {path.stem for path in modeling_files()}
    for named in parts.REGISTRY.values():
        for part in named.values():
            if isinstance(part.source, str) and part.source:
                file = part.source.partition(".")[0]
                assert file in files, f"head.py imports nothing of {file}.py: remote code would not find it"
                assert part.load().__doc__
