"""Run an example with the installed peft and say how it ended."""

from __future__ import annotations

import contextlib
import io
import linecache
import logging
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch

from peft_fuzz import example as e
from peft_fuzz.checks import AbsentError, NotHeldError, RefusedError, fail
from peft_fuzz.example import Example, Failure, Outcome
from peft_fuzz.life import state
from peft_fuzz.life.cost import check_cost
from peft_fuzz.life.ends import (
    check_delete,
    check_mixed,
    check_unload,
    check_within,
    merge_broken,
)
from peft_fuzz.life.gradients import check_gradients
from peft_fuzz.life.legal import legal
from peft_fuzz.life.life import Life
from peft_fuzz.life.plan import adapted, after, refusal
from peft_fuzz.life.weights import check_weights
from peft_fuzz.methods import METHODS
from peft_fuzz.methods.method import Stage
from peft_fuzz.networks import without_onednn
from peft_fuzz.oracle import check_copies

CLEAR: Final = (NotImplementedError, ValueError)
"""What a library may raise to refuse something."""
ON_PURPOSE: Final = (*CLEAR, RuntimeError, TypeError)
"""The same, where the library itself raises it in a `raise` statement."""
MAY_REFUSE: Final = (e.Add, e.HotSwap, e.LoadBeside, e.Merge, e.Unload, e.Weighted)
HERE: Final = Path(__file__).parent
OWN: Final = ("bounds.py", "oracle.py", "owned.py", "plan.py")
DEFECT: Final = ("open an issue", "report this", "something went wrong")
"""What the library says of errors that it holds for its own."""


def run(example: Example, folder: Path) -> Outcome:
    """Carry out an example and check after each act.

    Raises nothing for what the library does. An exception is a defect of the oracles.

    folder: where adapters are saved; it must be empty, and the caller removes it.
    """
    method = METHODS.get(example.method)
    if method is None or not method.available:
        return e.Outcome(absent=f"the installed peft has no method {example.method}")
    with _quiet():
        try:
            life = Life(example, method, folder)
        except AbsentError as error:
            return e.Outcome(absent=str(error))
        return _live(life, example)


def _live(life: Life, example: Example) -> Outcome:  # noqa: C901
    done = -1

    def go_on() -> None:
        nonlocal done
        if not _wrap(life):
            return
        for done, act in enumerate(example.acts):
            if not legal(life.plan, act):
                message = f"act {done} has no meaning here"
                raise RefusedError(message)
            _act(life, act)
        check_cost(life)

    failure = refused = absent = None
    try:
        go_on()
    except AbsentError as error:
        absent = str(error)
    except RefusedError as error:
        refused = str(error)
    except NotHeldError as error:
        failure = e.Failure(check=error.check, act=done, message=str(error))
    except Exception as error:
        if _own(error):
            raise
        source = life.method.refusal(error, "call")
        if source:
            refused = f"{_sentence(error)} ({source})"
        else:
            failure = _raised(error, done)
    complete = not (failure or refused or absent)
    acts = len(example.acts) if complete else max(done, 0)
    return e.Outcome(failure=failure, refused=refused, absent=absent, acts=acts)


def _wrap(life: Life) -> bool:
    """Wrap the network; return whether the method is meant for what it was put on."""
    try:
        life.wrap()
    except AbsentError:
        raise
    except Exception as error:
        source = life.method.refusal(error, "wrap")
        if source or isinstance(error, CLEAR) or _on_purpose(error):
            raise RefusedError(_sentence(error)) from error
        raise
    network = life.example.network
    targets = adapted(life.example.adapters[0].settings, network)
    if any(each.name in targets and each.kind not in life.method.kinds for each in network.layers):
        return False
    _check(life, None)
    return True


def _act(life: Life, act: e.Act) -> None:
    """Carry out one act, let the plan follow, and check."""
    plan, reason = life.plan, refusal(life.plan, act)
    before = state.snapshot(life)
    if reason is not None:
        _must_refuse(life, act, reason, before)
        return
    match act:
        case e.Mixed():
            check_mixed(life, act)
        case e.Merge(broken=True):
            _allowing(life, act, merge_broken)
        case e.Disable(within=True):
            check_within(life)
        case e.Unload():
            _allowing(life, act, check_unload)
            life.plan = after(life.plan, act)
            return
        case _:
            _allowing(life, act, Life.carry_out)
    if isinstance(act, e.Delete):
        life.plan = after(life.plan, act)
        check_delete(life, act, plan)
    else:
        life.plan = after(life.plan, act)
    if isinstance(act, e.Add):
        life.adopt_base(act.adapter)
    state.check_untouched(life, act, before, plan)
    state.check_trained(life, act, before, plan)
    _check(life, act)


def _allowing(life: Life, act: e.Act, function: Callable[..., None]) -> None:
    """Call a function; raise RefusedError where the library may refuse an act, and clearly does."""
    try:
        function(life, act)
    except NotHeldError:
        raise
    except Exception as error:
        stage: Stage = "wrap" if isinstance(act, (e.Add, e.LoadBeside)) else "call"
        source = life.method.refusal(error, stage)
        own_fault = any(text in str(error).lower() for text in DEFECT)
        if source or (isinstance(act, MAY_REFUSE) and _on_purpose(error) and not own_fault):
            raise RefusedError(_sentence(error)) from error
        raise


def _must_refuse(life: Life, act: e.Act, reason: str, before: Mapping[str, torch.Tensor]) -> None:
    """Raise NotHeldError if the library carries out what it must refuse, and that does harm."""
    if isinstance(act, e.HotSwap) and act.target_rank is not None:
        # Preparing for swaps comes before the swap that is refused.
        life.plan = replace(life.plan, padded=True)
    try:
        if isinstance(act, e.Mixed):
            life.observe(adapter_names=[*act.adapters])
        else:
            life.carry_out(act)
    except Exception as error:
        if isinstance(error, ON_PURPOSE):
            _check(life, act, is_refused=True)
            return
        raise
    if isinstance(act, e.Delete):
        life.plan = replace(life.plan, merged=())
        plan = life.plan
        life.plan = after(plan, act)
        state.check_output(life, act)
        return
    state.check_untouched(life, act, before, life.plan)
    if isinstance(act, e.HotSwap):
        state.check_output(life, act)
        return
    if isinstance(act, e.Add) and act.adapter in life.plan.settings:
        _check(life, act)
        return
    fail("accepted", f"No error was raised, though {reason}.")


def _check(life: Life, act: e.Act | None, *, is_refused: bool = False) -> None:
    if life.plan.ended:
        return
    if isinstance(act, e.Disable):
        life.observe()  # a disabled layer takes merged weights out when it is called
    check_copies(life.model, life.example.network)
    check_weights(life)
    state.check_trainable(life)
    if not is_refused:  # then no adapter was put in
        state.check_adapter_type(life, act)
    state.check_output(life, act)
    if isinstance(act, e.Fill):
        check_gradients(life)


def _raised(error: BaseException, position: int) -> Failure:
    return e.Failure(
        check="exception",
        act=position,
        message=_sentence(error),
        error=type(error).__name__,
        where=_where(error),
    )


def _own(error: BaseException) -> bool:
    """Return whether an exception comes out of the oracles: a defect here, and no finding."""
    frames = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    own = [frame for frame in frames if frame.is_relative_to(HERE)]
    if frames[-1] in own and not isinstance(error, TypeError):
        return True  # a TypeError may be about the arguments of the library's functions
    return any(frame.name in OWN or frame.parent.name == "methods" for frame in own)


def _where(error: BaseException) -> str | None:
    """Return the innermost function of peft that an exception passed through."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        parts = Path(frame.filename).with_suffix("").parts
        if "peft" in parts:
            module = ".".join(parts[len(parts) - parts[::-1].index("peft") :])
            return f"{module}:{frame.name}"
    return None


def _on_purpose(error: BaseException) -> bool:
    """Return whether peft itself raised an exception, by a `raise` statement."""
    if not isinstance(error, ON_PURPOSE):
        return False
    frame = traceback.extract_tb(error.__traceback__)[-1]
    line = linecache.getline(frame.filename, frame.lineno or 0)
    return "peft" in Path(frame.filename).parts and line.lstrip().startswith("raise")


def _sentence(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}".rstrip(": ")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' warnings, logs and prints away, and oneDNN."""
    disabled, threads = logging.root.manager.disable, torch.get_num_threads()
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            torch.random.fork_rng(devices=[]),
            without_onednn(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        torch.set_num_threads(threads)
