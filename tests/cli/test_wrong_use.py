"""Words that a command cannot take: one line that says which, and nothing is measured."""

import shlex

import pytest

MODELS = """
from torch import nn
from peft_regress import FineTune

class Linear(nn.Linear):
    def __init__(self):
        super().__init__(4, 2)

class Words(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Embedding(9, 3), nn.Linear(3, 2))

def frozen():
    return Linear().requires_grad_(False)

GATES = [FineTune("toy/lora-r2/net", model=Words, data=print, adapter="lora-r2")]
"""
FILES = {
    "pyproject.toml": '[tool.peft_regress]\ncases = ["models:GATES"]\n',
    "models.py": MODELS,
    "lora/adapter_config.json": '{"peft_type": "LORA", "peft_version": "0.19.1"}',
    "lora/adapter_model.safetensors": b"\x02\0\0\0\0\0\0\0{}",
}
RESNET, LINEAR = "--architecture resnet18", "--model models:Linear"
COST, CHOOSE = f"cost {RESNET} --method", "choose --memory 1GiB"
TIME = "time a b --matrix default --cases shift/head/resnet18"
COMPAT = "compat lora --base a:b"
NO_RUN = "Make a run file with `pytest SUITE --regress-save PATH`"
RENEW = "does not go with --renew"
REFUSED = [
    # cost
    ("cost --architecture resnet8 --method head", "Did you mean 'resnet18'"),
    (f"{COST} lroa", "Did you mean 'lora'"),
    (f"{COST} lora", "needs a rank"),
    (f"{COST} head --rank 4", "has no rank"),
    (f"{COST} lora --rank 0", "1<=x"),
    (f"{COST} lora --rank x", "not a valid integer"),
    (f"{COST} head --batch 0", "1<=x"),
    (f"{COST} head --loss mse", "sum"),
    (f"{COST} head --resolution 32 --freeze-head", "nothing to train"),
    (f"{COST} bn_head --resolution 32 --freeze-head", "nothing to train"),
    (f"{COST} head --input 8x4", "name it by --model MODULE:NAME"),
    ("cost --method head", "--architecture"),
    ("cost --cases nothing/*", "case pattern 'nothing/*'"),
    ("cost --cases toy/* --rank 4", "--rank does not go with --cases"),
    ("cost --cases toy/* --model a:b", "--cases does not go with --model"),
    (f"cost {LINEAR} --input 8x5", "a step of --model models:Linear --input 8x5"),
    (f"cost {LINEAR}", "a step of --model models:Linear without --input fails"),
    ("cost --model models:Words --input 8x5", "fails: RuntimeError: "),
    (f"cost {LINEAR} --input 8x4 --input y=1", "unexpected keyword argument 'y'"),
    (f"cost {LINEAR} --input 8by4", "'8by4' is not [NAME=]SHAPE[:DTYPE]"),
    ("cost --model models:nothing --input 8x4", "unknown name in module models 'nothing'. "),
    ("cost --model my_module:build --input 8x4", "there is no module 'my_module' among"),
    ("cost --model build --input 8x4", "'build' is not an import path"),
    ("cost --model models:frozen --input 8x4", "nothing to train"),
    (f"cost {LINEAR} --loss sum", "--loss does not go with --model"),
    (f"cost {LINEAR} --input 8x4 --batch 1", "--batch does not go with --model"),
    (
        f"cost {LINEAR} --method lora {RESNET}",
        "does not go with --model: build the model as you train it",
    ),
    # choose
    (f"choose {RESNET}", "Name a --device, or a limit"),
    (f"{CHOOSE} {RESNET} --method lora-dropout", "unknown method 'lora-dropout'"),
    (f"{CHOOSE} {RESNET} --method x", "method 'x'"),
    (f"{CHOOSE} {RESNET} --task x", "unknown task of a st"),
    (f"{CHOOSE} {RESNET} --train", "--train needs data"),
    (CHOOSE, "Name one of --architecture, --model and --case"),
    (f"choose --memory 1 {RESNET}", "--memory '1' is not an amount"),
    (f"{CHOOSE} --architecture resnet1", "resnet1"),
    (f"choose --device raspberry {RESNET}", "device 'raspberry'"),
    (f"{CHOOSE} --case toy/full/net", "FineTune of your own"),
    (f"{CHOOSE} --case toy/lora-r2/net --steps 9", "--steps is of --train"),
    ("choose --memory 1B --case x --batch 4", "--batch does not go with --case"),
    ("choose --memory 1B --architecture x --head y", "go with --architecture"),
    (f"{CHOOSE} --model models:Words --head 9", "no module '9'"),
    # compat
    ("compat absent --base a:b", "absent: no such folder"),
    ("compat lora", "name the model that the adapter is for: --base pkg.mod:callable"),
    ("compat lora --base '' --releases 1", "name the model"),
    ("compat lora --base resnet17", "unknown architecture 'resnet17'"),
    (f"{COMPAT} --inputs a:c --shape 4,3", "--inputs and --shape exclude each other"),
    (f"{COMPAT} --shape 4,x", "'4,x' is no shape"),
    (f"{COMPAT} --shape 0", "'0' is no shape"),
    (f"{COMPAT} --releases new", "'new' is not a release"),
    (f"{COMPAT} --saved-by new --releases 1", "'new' is not a version"),
    # time
    ("time a b --cases shfit/*", "shfit/*"),
    (f"{TIME} --matrix no_such", "no_such"),
    (f"{TIME} --pairs 20", "--pairs 24 is the least"),
    (f"{TIME} --pairs 0", "1<=x"),
    (f"{TIME} --pairs many", "not a valid integer"),
    (f"{TIME} --time-limit 0", "1<=x"),
    (f"{TIME} --time-limit nan", "time-limit"),
    # measure and upgrade
    ("measure --save a.json --cases nothing/*", "unknown case pattern 'nothing/*'"),
    ("measure --save a.json --matrix nothing", "unknown matrix 'nothing'"),
    ("measure --save a.json --jobs 0", "0 is not in the range"),
    ("measure --save baselines/a.json", "lies in the baseline storage"),
    ("upgrade", "name a requirement"),
    # runs and storages
    ("list --cases shfit/*", "shfit/*"),
    ("compare old.json new.json", "--regress-save"),
    ("history a.json", NO_RUN),
    ("report a.json", NO_RUN),
    ("accept", "name the RUN to accept"),
    ("accept --renew run", f"run {RENEW}"),
    ("accept --renew --reason why", f"--reason {RENEW}"),
    ("accept --renew --history", f"--history {RENEW}"),
    ("accept --renew --retire X", f"--retire {RENEW}"),
    ("accept --renew --allow-errors X", f"--allow-errors {RENEW}"),
    # An empty name is not the working directory.
    ("explain '' 0001 shift/lora-r4/resnet18", "the name is empty"),
    ("explain 0001 '' shift/lora-r4/resnet18", "the name is empty"),
    ("compare '' 0001", "the name is empty"),
    ("compare 0001 ''", "the name is empty"),
    ("history ''", "the name is empty"),
    ("accept '' --reason why", "the name is empty"),
    # names of commands and options
    ("comparr a b", "Did you mean 'compare'"),
    ("historie", "Did you mean 'history'"),
    ("compare --stirct a b", "Did you mean '--strict'"),
    ("frobnicate", "No such command 'frobnicate'"),
]
ABSENT = [
    ("measure --save a.json --matrix default --baselines nowhere", "a checkout of peft_regress"),
    ("accept a.json --reason why", "--regress-save"),
    ("sources --check --baselines nowhere", "peft-regress sources"),
]


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [*((*row, 2) for row in REFUSED), *((*row, 3) for row in ABSENT)],
    ids=[words for words, _ in (*REFUSED, *ABSENT)],
)
def test_it_is_one_line_with_the_exit_code(project, words, message, code):
    project.write(FILES).store(1)
    found, out, err = project.run(*shlex.split(words))
    assert (found, out) == (code, "")
    *_, last = err.splitlines()  # below the usage
    assert message in last
    assert last.lower().startswith("error: ")
