"""A script as a case: what its record holds, and which of its changes are told."""

import msgspec
import pytest
from builders import observe
from msgspec import UNSET
from watched_scripts import LOOP

from peft_regress import Script
from peft_regress.errors import InputError
from peft_regress.gate.judge import judge
from peft_regress.measure.scripts import script_case
from peft_regress.measure.scripts.watching import ScriptError
from peft_regress.report.sentences import remark_line
from peft_regress.report.verdict.cases import case_text
from peft_regress.runs.schema import Record

ID = "scripts/head/convnet"


@pytest.fixture
def measured(watch, monkeypatch, tmp_path):
    """Return a function that measures a script from its text."""

    def measure(text, *, has_reference=False, **asked):
        monkeypatch.setattr(
            script_case, "watch_script", lambda _, *, nudge, steps, until, **__: watch(
                text, nudge=nudge, steps=steps, until=until
            )
        )  # fmt: skip
        measure.recipe = script_case.ScriptRecipe(Script(ID, "train.py", **asked), tmp_path)
        return measure.recipe.measure(has_reference=has_reference)

    return measure


@pytest.fixture(scope="module")
def kept():
    """The record of the unchanged script; the first test that needs it measures it."""
    return []


@pytest.fixture
def reasons(measured, kept):
    """Return a function that gives the reasons why a changed script is judged otherwise."""
    known = kept[0] if kept else measured(LOOP)
    kept[:] = [known]

    def judged(text):
        sides = ({ID: observe(one)} for one in (known, measured(text, has_reference=True)))
        (case,) = judge(*sides).cases
        return case

    return judged


def test_the_record_of_a_script_survives_a_file(measured):
    record = measured(LOOP)
    assert msgspec.json.decode(msgspec.json.encode(record), type=Record) == record
    assert (record.status, record.profiled_on) == ("ok", "real tensors")
    assert record.metrics["micro_batches"].value == 1
    assert len(record.metrics["first_losses"].samples[0]) == 4
    assert record.metrics["gradient_norms"].samples[0][0] > 0
    assert record.rates == [[0.01] * 4]
    assert record.trained["4.weight"] == [10, 288]
    assert record.script.optimizers == ["AdamW"]
    assert "accuracy" not in record.metrics
    assert record.invariants == {}
    assert {"torch", "numpy"} <= measured.recipe.loaded()
    assert "pip" not in measured.recipe.loaded()


def test_the_same_script_is_unchanged(reasons):
    assert reasons(LOOP).verdict == "unchanged"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("[1] *= 2", "differ in 1 of 8 rows"),
        ("[:8] = data.tensors[0][:8].flip(0)", "have another order"),
    ],
)
def test_other_rows_of_the_first_micro_batch_are_told_in_words(reasons, rows, words):
    case = reasons(f"data.tensors[0]{rows}\n{LOOP}")
    (reason,) = (one for one in case.reasons if one.kind == "inputs")
    assert reason.new.startswith(f"in the first micro-batch, values of tensor 0 {words}")


SCALED = """
criterion = loss_of
def loss_of(x, y):
    return 2 * criterion(x, y)
"""
CHANGES = {
    "one more backward pass": (
        LOOP.replace("step(x, y)", "loss_of(x, y).backward(); step(x, y)"),
        {"micro_batches", "forward_flops", "backward_flops"},
    ),
    "another rate": (
        "opt = torch.optim.AdamW(trained, lr=0.02, foreach=False)\n" + LOOP,
        {"rates", "optimizer"},
    ),
    "another weight decay": (
        "opt = torch.optim.AdamW(trained, lr=0.01, foreach=False, weight_decay=0.1)\n" + LOOP,
        {"optimizer"},
    ),
    "another optimizer": (
        "opt = torch.optim.Adagrad(trained, lr=0.01, foreach=False)\n" + LOOP,
        {"optimizer"},
    ),
    "less trains": ("net[4].bias.requires_grad_(False)\n" + LOOP, {"trained", "trainable_params"}),
    "a scaled loss": (SCALED + LOOP, {"first_losses", "gradient_norms"}),
    "a scaled loss and one more buffer": (
        f"net.register_buffer('added', torch.ones(3), persistent=False)\n{SCALED}{LOOP}",
        {"first_losses", "gradient_norms"},
    ),
    "more work": (
        "net[2] = nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 1).requires_grad_(False))\n" + LOOP,
        {"forward_flops", "peak_bytes", "model"},
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_is_told_by_its_name(reasons, name):
    text, metrics = CHANGES[name]
    case = reasons(text)
    assert case.verdict == "regressed"
    told = {reason.name for reason in case.reasons if reason.verdict == "regressed"}
    assert metrics <= told


def test_work_without_a_formula_is_named_and_not_judged(measured, reasons):
    text = (
        "criterion = loss_of\n"
        "def loss_of(x, y):\n"
        "    more = torch.cdist(x.flatten(1), x.flatten(1), p=1.0).mean()\n"
        "    return criterion(x, y) + 0 * more\n"
    )
    case = reasons(text + LOOP)
    (reason,) = (one for one in case.reasons if one.name == "forward_flops")
    assert (reason.verdict, reason.obstacle) == ("incomparable", "not measured")
    named = "forward_flops is not judged: there is no FLOP formula for aten._cdist_forward"
    assert named in remarks_of(case)
    sides = ({ID: observe(measured(one))} for one in (text + LOOP, LOOP))
    (case,) = judge(*sides).cases
    assert "forward_flops" not in {one.name for one in case.reasons}
    assert any(one.startswith("forward_flops is new: ") for one in remarks_of(case))


def remarks_of(case):
    return [remark_line(one) for one in case.remarks]


def test_other_data_is_no_other_computation(reasons):
    other = "data = TensorDataset(torch.randn(64, 3, 8, 8), data.tensors[1])\n"
    case = reasons(other + LOOP)
    assert case.verdict == "incomparable"
    (reason,) = case.reasons
    assert reason.name == "inputs"
    assert reason.new == "in the first micro-batch, values of tensor 0 differ in 8 of 8 rows"


def test_the_rates_of_a_group_that_comes_later_are_fewer(measured):
    later = "\n    if len(opt.param_groups) == 1:\n"
    group = "        opt.add_param_group({'params': [nn.Parameter(torch.ones(1))], 'lr': 0.02})\n"
    record = measured(LOOP + later + group)
    assert record.rates == [[0.01] * 4, [0.02] * 3]


LOSSES = ["first_losses", "unclipped_norms", "gradient_norms"]
IN_ONE_RUN = "ran = pathlib.Path(__file__ + '.ran')\nis_second = ran.exists()\nran.touch()\n"


@pytest.mark.parametrize(
    ("text", "inputs", "lost", "kept"),
    [
        # Weights, the order of the data, dropout, the shapes of another step, costs.
        ("net[4].reset_parameters()\n" + LOOP,
         ["initial weights such as 4.bias"], {"4.weight"}, {"0.weight", "1 0"}),
        (LOOP.replace("batch_size=8", "batch_size=8, shuffle=True"),
         ["training batches such as 1 0"], {"1 0"}, {"0.weight", "4.weight"}),
        ("net[3] = nn.Sequential(nn.Dropout(), net[3])\n" + LOOP, [], set(), {"4.weight", "1 0"}),
        (f"{IN_ONE_RUN}x, y = data[:8]\nstep(x[is_second:], y[is_second:])\n" + LOOP,
         ["training batches such as 1 0"],
         {"1 0", "forward_flops", "backward_flops", "peak_bytes", "aten_ops"}, {"2 0"}),
        (f"{IN_ONE_RUN}criterion = loss_of\ndef loss_of(x, y):\n"
         "    more = (x.flatten(1) @ x.flatten(1).T).mean() if is_second else 0\n"
         "    return criterion(x, y) + more\n" + LOOP,
         [], {"forward_flops"}, {"1 0", "peak_param_bytes"}),
    ],
)  # fmt: skip
def test_what_differs_between_two_runs_is_named_and_left_out(measured, text, inputs, lost, kept):
    record = measured(f"import pathlib\ntorch.seed()\n{text}")
    recorded = {*record.metrics, *record.inputs.weights, *record.inputs.train}
    assert record.unseeded[: len(inputs)] == inputs
    assert [name for name in record.unseeded[len(inputs) :] if name in LOSSES] == LOSSES
    assert recorded.isdisjoint({*LOSSES, *lost})
    assert {"optimizer_flops", "optimizer_state_bytes", "trainable_params", *kept} <= recorded
    assert record.nearby_losses is UNSET
    assert ("forward_flops" in recorded) == ("forward_flops" not in lost)


NOTHING_TRAINS = (
    "net.requires_grad_(False)\n"
    "criterion = loss_of\n"
    "def loss_of(x, y):\n    return criterion(x.requires_grad_(), y)\n" + LOOP
)


WATCHER_FAILS = (
    "from peft_regress.measure.scripts import script_recorder\n"
    "script_recorder.ScriptRecorder._hold_result = None\n" + LOOP
)


@pytest.mark.parametrize(
    ("text", "words"),
    [(NOTHING_TRAINS, "nothing trains"), (WATCHER_FAILS, "the watcher failed in an operator")],
)
def test_a_script_without_costs_is_in_error_where_it_has_a_reference(measured, text, words):
    assert words in measured(text, has_reference=True).error.message
    with pytest.raises(ScriptError, match=words):
        measured(text)


IN_STEP_3 = "for at, (x, y) in enumerate(DataLoader(data, batch_size=8), 1):\n    if at == 3:\n"


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (IN_STEP_3 + "        raise ValueError('gone')\n    step(x, y)\n",
         "ValueError", "gone (train.py, line 2"),
        ("net = nn.Sequential(nn.Flatten(), nn.Linear(192, 10)).half()\n"
         "opt = torch.optim.SGD(net.parameters(), lr=0.1)\n"
         "data = TensorDataset(data.tensors[0].half() * 3e4, data.tensors[1])\n" + LOOP,
         "NonFiniteError", "the loss is nan in step 1"),
        ("net[4].bias.register_hook(lambda grad: grad / 0)\n" + LOOP,
         "NonFiniteError", "the norm of the gradients is inf in step 1"),
        (IN_STEP_3 + "        opt.param_groups[0]['lr'] = float('inf')\n    step(x, y)\n",
         "NonFiniteError", "the learning rate is inf in step 3"),
    ],
)  # fmt: skip
def test_a_script_that_ends_badly_is_in_error(measured, reasons, text, error, message):
    case = reasons(text)
    assert case.verdict == "newly_failing"
    record = measured(text)
    assert (record.status, record.error.type) == ("error", error)
    assert message in record.error.message
    assert record.error.after_steps == (2 if error == "ValueError" else 4)
    assert msgspec.json.decode(msgspec.json.encode(record), type=Record) == record


EPOCHS = """
for epoch in range(2):
    for at, (x, y) in enumerate(DataLoader(data, batch_size=8)):
        if at % 2 or at < {first}:
            step(x, y)
"""


def test_the_steps_around_the_end_of_an_epoch_are_judged(measured):
    known, other = (
        measured(EPOCHS.format(first=first), until="epoch", steps=2) for first in (0, 8)
    )
    assert [known.metrics["steps_before_event"].value, known.script.steps] == [4, []]
    assert [other.metrics["steps_before_event"].value, other.script.steps] == [
        8, [1, 2, 7, 8, 9, 10],
    ]  # fmt: skip
    assert known.settings["until"] == "epoch"
    (case,) = judge({ID: observe(known)}, {ID: observe(other)}).cases
    assert case.verdict == "regressed"
    assert "steps_before_event" in {reason.name for reason in case.reasons}


def test_a_rate_names_the_number_of_a_step_that_follows_others_left_out(measured):
    text = "for epoch in range(2):\n    for x, y in DataLoader(data, batch_size=8):\n"
    usual, other = (
        measured(f"{text}        opt.param_groups[0]['lr'] = 0.01 * {rate}\n        step(x, y)\n",
                 until="epoch", steps=2)
        for rate in ("1", "(2 - (epoch == 0))")
    )  # fmt: skip
    (case,) = judge({ID: observe(usual)}, {ID: observe(other)}).cases
    (rate,) = (reason for reason in case.reasons if reason.kind == "rates")
    assert rate.note.endswith("after step 9")


def test_gradients_are_judged_before_and_after_they_are_clipped(measured):
    clipped = LOOP.replace("step(x, y)", "clipped(x, y)")
    text = (
        "def clipped(x, y):\n    opt.zero_grad()\n    ({0} * loss_of(x, y)).backward()\n"
        "    nn.utils.clip_grad_norm_(trained, {1})\n    opt.step()\n" + clipped
    )
    records = [measured(text.format(*one)) for one in ((1, 0.1), (4, 0.1))]
    (case,) = judge(*({ID: observe(one)} for one in records)).cases
    changes = {reason.name: reason.relative_change for reason in case.reasons}
    assert changes["unclipped_norms"] == pytest.approx(3.0, rel=1e-3)
    assert "gradient_norms" not in changes


def test_what_the_steps_cannot_show_is_told_of_a_new_case(measured):
    record = measured(LOOP)
    assert record.script.unseen[0] == "the learning rate is constant"
    new, known = (
        case_text(comparison.cases[0], comparison)
        for comparison in (judge(one, {ID: observe(record)}) for one in ({}, {ID: observe(record)}))
    )
    assert 'not seen: no evaluation: until="evaluation"' in " ".join(new.split())
    assert "not seen" not in known


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 1},
        {"args": "--lr 1"},
        {"env": {"A": 1}},
        {"time_limit": 0},
        {"bounds": {"x": 1}},
        {"until": "noon"},
    ],
)
def test_values_that_no_script_can_have_are_refused(wrong):
    with pytest.raises(InputError, match=rf"Script 'scripts/head/convnet': .*{next(iter(wrong))}"):
        Script(ID, "train.py", **wrong)
