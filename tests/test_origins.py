"""`--cfg job` says where every value came from, and what it prints is the configuration."""

import re

import yaml
from omegaconf import OmegaConf

from conftest import ROOT

WORDS = ("experiment=second_argmax", "T=16", "optim.lr=0.1", "train.parameters=[weight_hh]", "+seeds.data=3")


def leaves(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def said(text):
    """Dotted key -> comment, read from the printed lines alone."""
    path, found = [], {}
    for line in text.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        key, _, rest = line.strip().partition(":")
        path[depth:] = [key]
        if rest:
            found[".".join(path)] = rest.partition("  # ")[2]
    return found


def test_every_value_is_where_it_is_said_to_be(cli, composed):
    status, out, _ = cli("--cfg", "job", *WORDS)
    assert status == 0 and yaml.safe_load(out) == composed(*WORDS)
    comments, values = said(out), dict(leaves(composed(*WORDS)))
    assert set(comments) == set(values) and all(comments.values()), "no value without its origin"
    for key, comment in comments.items():
        place = comment.split(": ")[0]
        if place.startswith("command line, "):
            assert key in comment and place.removeprefix("command line, ") in WORDS
            continue
        written = OmegaConf.load(ROOT / place)
        # in its own file a group's keys stand at the top
        node = OmegaConf.select(written, key, default=None, throw_on_missing=False)
        if node is None:
            node = OmegaConf.select(written, key.partition(".")[2], default=None)
        assert node == values[key] or str(values[key]) in str(node), f"{key} is not in {place}"
    assert comments["T"] == "command line, T=16" and comments["dtype"] == "conf/experiment/second_argmax.yaml"
    assert comments["model.hidden_size"] == "conf/model/relu_rnn.yaml" and comments["threads"] == "conf/config.yaml"


def test_interpolations_and_missing_values_are_told(cli):
    status, out, _ = cli("--cfg", "job", "signal=file")
    assert status == 0 and re.search(r"path: .?\?\?\?.* # conf/signal/file.yaml; must be given: signal.path=...", out)
    assert re.search(r"T: 8 .*# conf/signal/file.yaml: \$\{T\}", out)


def test_wrong_words_are_complained_about_as_in_a_run(cli):
    status, out, err = cli("--cfg", "job", "modle=spectral")
    assert status == 1 and "did you mean model" in err and not out
