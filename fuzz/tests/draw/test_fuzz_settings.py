"""Drawn settings: what the installed peft has, on the network's layers, small when shrunk."""

import warnings

import peft
import pytest
from hypothesis import HealthCheck, find, given
from hypothesis import settings as options
from hypothesis import strategies as st

from peft_fuzz.methods import METHODS
from peft_fuzz.methods.method import config_defaults
from peft_fuzz.networks.network import Layer, Network
from peft_fuzz.search.draw.examples import FREE, adapter_names
from peft_fuzz.search.draw.settings import settings

NETWORK = Network(
    layers=(
        Layer(name="blocks.0.lin", kind="linear", inputs=4, outputs=8),
        Layer(name="blocks.1.lin", kind="linear", inputs=8, outputs=4),
        Layer(name="head", kind="linear", inputs=4, outputs=4),
    )
)


@pytest.mark.parametrize("name", [name for name, one in METHODS.items() if one.available])
@options(max_examples=20, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_settings_make_a_configuration(name, data):
    method = METHODS[name]
    drawn = data.draw(settings(method, NETWORK))
    assert set(drawn) <= set(config_defaults(method.config))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        getattr(peft, method.config)(**drawn)


def test_adapters_of_one_model_share_what_the_documentation_wants_alike():
    first = {"target_modules": ["head"], "r": 2, "projection_prng_key": 1}
    drawn = find(settings(METHODS["vera"], NETWORK, beside=first), lambda _drawn: True)
    assert drawn["projection_prng_key"] == 1


def test_a_module_with_two_names_is_never_copied():
    again = Layer(name="again", kind="linear", inputs=4, outputs=4, same_as="head")
    network = Network(layers=(*NETWORK.layers, again))
    copied = set()

    @options(max_examples=100, derandomize=True, database=None)
    @given(drawn=settings(METHODS["lora"], network))
    def look(drawn):
        copied.update(drawn.get("modules_to_save", []))

    look()
    assert copied
    assert not copied & {"head", "again"}


def test_no_copy_has_the_name_of_an_adapter():
    copies = {"modules_to_save": ["net.head"]}
    assert adapter_names(("head", "lin0"), [{}, copies]) == FREE
    assert adapter_names(("lin0", "net"), [copies]) == FREE
    assert adapter_names(("foo", "foobar"), [{}, copies]) == ("foo", "foobar")
