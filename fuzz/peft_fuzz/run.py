"""Run an example with the installed peft and say how it ended."""

from __future__ import annotations

import contextlib
import io
import linecache
import logging
import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch

from peft_fuzz.acts import AnyAct, Wrap
from peft_fuzz.acts.act import is_legal
from peft_fuzz.example import Example, Failure, Outcome
from peft_fuzz.methods import METHODS
from peft_fuzz.networks.build import without_onednn
from peft_fuzz.oracle.checks import AbsentError, NotHeldError, RefusedError
from peft_fuzz.oracle.cost import check_cost
from peft_fuzz.oracle.life import Life
from peft_fuzz.oracle.plan import adapted
from peft_fuzz.oracle.state import check_all, check_untouched

CLEAR: Final = (NotImplementedError, ValueError)
"""What a library may raise to refuse something."""
ON_PURPOSE: Final = (*CLEAR, RuntimeError, TypeError)
"""The same, where the library itself raises it in a `raise` statement."""
HERE: Final = Path(__file__).parent
OWN: Final = ("bounds.py", "expected.py", "owned.py", "plan.py")
DEFECT: Final = ("open an issue", "report this", "something went wrong")
"""What the library says of errors that it holds for its own."""


def run(example: Example, folder: Path) -> Outcome:
    """Carry out an example and check after each act.

    Raises nothing for what the library does. An exception is a defect of the oracles.

    folder: where adapters are saved; it must be empty, and the caller removes it.
    """
    method = METHODS.get(example.method)
    if method is None or not method.available:
        return Outcome(absent=f"the installed peft has no method {example.method}")
    with _quiet():
        try:
            life = Life(example, method, folder, autocast=example.autocast)
        except AbsentError as error:
            return Outcome(absent=str(error))
        return _live(life, example)


def _live(life: Life, example: Example) -> Outcome:  # noqa: C901
    done = -1

    def go_on() -> None:
        nonlocal done
        if not _wrap(life):
            return
        for done, act in enumerate(example.acts):
            if not is_legal(life.plan, act):
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
        failure = Failure(check=error.check, act=done, message=str(error))
    except Exception as error:
        if _own(error):
            raise
        if life.method.refuses(error, "call"):
            refused = _sentence(error)
        else:
            failure = Failure(
                check="exception",
                act=done,
                message=_sentence(error),
                error=type(error).__name__,
                where=_where(error),
            )
    complete = not (failure or refused or absent)
    acts = len(example.acts) if complete else max(done, 0)
    return Outcome(failure=failure, refused=refused, absent=absent, acts=acts)


def _wrap(life: Life) -> bool:
    """Wrap the network; return whether the method is meant for what it was put on."""
    try:
        life.wrap()
    except AbsentError:
        raise
    except Exception as error:
        if life.method.refuses(error, "wrap") or isinstance(error, CLEAR) or _on_purpose(error):
            raise RefusedError(_sentence(error)) from error
        raise
    network = life.on.network
    targets = adapted(life.on.adapters[0].settings, network)
    if any(each.name in targets and each.kind not in life.method.kinds for each in network.layers):
        return False
    check_all(life, Wrap().change(life.plan))
    return True


def _act(life: Life, act: AnyAct) -> None:
    plan, reason = life.plan, act.refusal(life.plan)
    before, change = life.snapshot(), act.change(life.plan)
    torch.default_generator.manual_seed(life.on.network.seed)
    if reason is not None:
        _must_refuse(life, act, reason, before)
        return
    _carry_out(life, act)
    life.plan = act.after(plan)
    act.finish(life, plan)
    check_untouched(life, change, before, plan)
    act.check(life, plan, before)
    check_all(life, change)


def _carry_out(life: Life, act: AnyAct) -> None:
    """Carry out an act; raise RefusedError where the library may refuse it, and clearly does."""
    try:
        act.carry_out(life)
    except (AbsentError, NotHeldError):
        raise
    except Exception as error:
        own_fault = any(text in str(error).lower() for text in DEFECT)
        if life.method.refuses(error, act.stage) or (
            act.may_refuse and _on_purpose(error) and not own_fault
        ):
            raise RefusedError(_sentence(error)) from error
        raise


def _must_refuse(life: Life, act: AnyAct, reason: str, before: Mapping[str, torch.Tensor]) -> None:
    """Raise NotHeldError if the library carries out what it must refuse, and that does harm."""
    change = act.change(life.plan)
    try:
        act.attempt(life)
    except ON_PURPOSE:
        check_all(life, replace(change, puts_in=()))  # no adapter was put in
        return
    check_untouched(life, change, before, life.plan)
    act.check_accepted(life, reason)


def _own(error: BaseException) -> bool:
    """Return whether an exception comes out of the oracles: a defect here, and no finding."""
    frames = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    own = [frame for frame in frames if frame.is_relative_to(HERE)]
    if frames[-1] in own and not isinstance(error, TypeError):
        return True  # a TypeError may be about the arguments of the library's functions
    return any(frame.name in OWN or frame.parent.name == "methods" for frame in own)


def _where(error: BaseException) -> str | None:
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
