"""What a change makes of a single module, without any model around it: inplace.py, piece by piece."""

import copy
import functools
import inspect
import pickle
import types

import pytest
import torch
from torch import nn

from sparsight.errors import PlanError
from sparsight.inplace import (
    BUFFER,
    STATE,
    Change,
    argument_names,
    both,
    buffer_name,
    change,
    check_changeable,
    is_changed,
    unchange,
)


class Host(nn.Module):
    """Anything with a forward of several arguments."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        self.register_buffer("own", torch.ones(2), persistent=False)

    def forward(self, x, mask=None, *, scale=1.0):
        return x * self.weight * scale


class Doubled(Change):
    """Twice what the host returns, and what it was called with."""

    def forward(self, *args, **kwargs):
        first, others = self.bound(args, kwargs)
        return 2 * self.dense(first, **others) + self.tensor("map.shift"), others


class State:
    """What a kind of change reads of its state."""

    def __init__(self, module):
        self.arguments = argument_names(module)


X = torch.tensor([3.0, 5.0])
SHIFT = torch.tensor([10.0, 20.0])


def changed():
    module = Host()
    change(module, Doubled, State(module), {"map.shift": SHIFT.clone(), "left": torch.zeros(3)})
    return module


def facts(module):
    return (type(module), sorted(module.__dict__), sorted(module._buffers), list(module.state_dict()),
            set(module._non_persistent_buffers_set))  # fmt: skip


def test_a_changed_module_is_of_both_classes_and_runs_the_change():
    module = changed()
    assert is_changed(module)
    assert isinstance(module, Host)
    assert isinstance(module, Doubled)
    assert type(module) is both(Doubled, Host) is type(changed())  # one class for each pair
    assert type(module).__name__ == "Doubled"
    assert type(module).__module__ == "sparsight.inplace"
    out, others = module(X)
    assert torch.equal(out, 2 * X * module.weight + SHIFT)
    assert torch.equal(module.dense(X), X * module.weight)
    assert others == {}


@pytest.mark.parametrize(
    ("args", "kwargs", "others"),
    [
        ((X, "m"), {}, {"mask": "m"}),
        ((X,), {"mask": "m", "scale": 3.0}, {"mask": "m", "scale": 3.0}),
        ((), {"x": X, "scale": 3.0}, {"scale": 3.0}),
    ],
)
def test_arguments_are_told_apart_by_name_however_they_come(args, kwargs, others):
    module = changed()
    out, found = module(*args, **kwargs)
    assert found == others
    assert torch.equal(out, 2 * X * module.weight * others.get("scale", 1) + SHIFT)


def test_names_of_arguments_are_the_host_s_before_and_after():
    module, names = Host(), ("x", "mask", "scale")
    assert argument_names(module) == names
    assert argument_names(changed()) == names
    assert inspect.signature(changed().forward) == inspect.signature(module.forward)


def test_tensors_of_a_change_are_buffers_in_no_state_dict():
    module = changed()
    assert buffer_name("map.shift") == BUFFER + "map_shift"
    assert set(module._buffers) == {"own", BUFFER + "map_shift", BUFFER + "left"}
    assert list(module.state_dict()) == ["weight"]
    assert module.double().tensor("map.shift").dtype == torch.float64
    assert module.tensor("none") is None
    module.set_tensors({"map.shift": torch.ones(2, dtype=torch.float16)})
    assert module.tensor("map.shift").dtype == torch.float64
    assert torch.equal(module.tensor("map.shift"), torch.ones(2, dtype=torch.float64))
    with pytest.raises(AttributeError):
        module.set_tensors({"none": torch.ones(2)})


def test_undoing_a_change_leaves_nothing_of_it():
    fresh = facts(Host())
    module = changed()
    assert facts(module) != fresh
    unchange(module)
    assert facts(module) == fresh
    assert not is_changed(module)
    unchange(module)  # once more changes nothing
    assert facts(module) == fresh


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_changed_too_and_can_be_undone_alone(copied):
    module = changed()
    other = copied(module)
    assert type(other) is type(module)
    assert is_changed(other)
    assert torch.equal(other(X)[0], module(X)[0])
    other.__dict__ = dict(other.__dict__)
    del other.__dict__[STATE]
    assert not is_changed(other)
    assert is_changed(module)


def test_a_class_that_others_made_of_ours_stays_and_is_dense_after():
    module = changed()
    theirs = type("Theirs", (type(module),), {})
    module.__class__ = theirs
    assert torch.equal(module(X)[0], 2 * X * module.weight + SHIFT)
    unchange(module)
    assert type(module) is theirs
    assert not is_changed(module)
    assert torch.equal(module(X), X * module.weight)
    assert type(copy.deepcopy(module)) is theirs
    # Changed again, it is the host's forward that is dense, and undoing gives their class back.
    change(module, Doubled, State(module), {"map.shift": SHIFT})
    assert type(module).HOST is Host
    assert torch.equal(module(X)[0], 2 * X * module.weight + SHIFT)
    unchange(module)
    assert type(module) is theirs


# What has a forward that is not its class's


def compiled():
    return torch.compile(Host())


def of_its_own():
    module = Host()
    module.forward = lambda x: x
    return module


def of_another():
    module = Host()
    module.forward = Host().forward
    return module


def of_another_class():
    module = Host()
    module.forward = types.MethodType(nn.Linear.forward, module)
    return module


def wrapped():
    module = Host()
    module.forward = functools.partial(module.forward, scale=2.0)
    return module


def hooked(inner=None):
    """As accelerate does it: its own forward, and the one before, which that calls."""
    module = Host()
    module._hf_hook, module._old_forward = object(), inner or module.forward
    module.forward = functools.partial(lambda m, *args: m._old_forward(*args), module)
    return module


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (compiled, "^the part is compiled: apply the plan first"),
        (of_its_own, "^the part has a forward of its own"),
        (of_another, "^the part has a forward of its own"),
        (of_another_class, "^the part has a forward of its own"),
        (wrapped, "^the part has a forward of its own"),
        (lambda: hooked(inner=lambda x: x), "^the part has a forward of its own"),
    ],
)
def test_a_module_whose_forward_is_another_is_refused(made, words):
    with pytest.raises(PlanError, match=words):
        check_changeable(made(), "the part")


def bound_again():
    module = Host()
    module.forward = types.MethodType(Host.forward, module)
    return module


@pytest.mark.parametrize("made", [Host, changed, bound_again, hooked])
def test_a_module_whose_forward_is_its_class_s_is_taken(made):
    check_changeable(made(), "the part")


@pytest.mark.parametrize("made", [bound_again, hooked])
def test_a_forward_that_is_kept_on_the_module_follows_the_change(made):
    module = made()
    change(module, Doubled, State(module), {"map.shift": SHIFT})
    assert torch.equal(module(X)[0], 2 * X * module.weight + SHIFT)
    unchange(module)
    assert torch.equal(module(X), X * module.weight)
