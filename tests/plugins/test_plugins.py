"""Discovery: plugins are found, broken ones recorded, clashes and other API versions refused in words."""

from __future__ import annotations

import sys
import types
from dataclasses import replace

import numpy as np
import pytest

import tallow
from tallow.builder import Builder
from tallow.discovery import Point
from tallow.errors import PluginError, Unavailable
from tallow.hookspecs import hook
from tallow.ops import table
from tallow.plugins import PluginHost, host


def plugin(name: str, **members) -> Point:
    """An entry point on a module made here."""
    module = types.ModuleType(f"made_{name}")
    module.TALLOW_API = 1
    for key, value in members.items():
        setattr(module, key, value)
    sys.modules[module.__name__] = module
    return Point(name, module.__name__, "made", "1")


def registering(name: str, value=object):
    @hook
    def register_backends(register):
        register(name, value)

    return register_backends


def test_installed_plugins_are_found_and_the_broken_one_is_recorded():
    infos = {i.name: i for i in host().infos}
    assert infos["cpu"].error is None and "backend cpu" in infos["cpu"].provides
    assert infos["fake"].error is None
    assert "a_driver_that_is_not_installed" in infos["broken"].error
    with pytest.raises(Unavailable, match="tallow-broken .* not usable: .*a_driver_that_is_not_installed"):
        tallow.plugins.backend("broken")


def test_an_unknown_backend_says_what_to_install():
    with pytest.raises(Unavailable, match="pip install tallow-vulkan"):
        tallow.plugins.backend("vulkan")
    with pytest.raises(Unavailable, match="Did you mean 'cpu'"):
        tallow.plugins.backend("cpuu")


def test_no_backend_at_all_is_said():
    with pytest.raises(Unavailable, match="no backend is installed.*pip install tallow-cpu"):
        PluginHost([]).get("backend", "cpu")


def test_another_api_version_is_refused():
    found = PluginHost([plugin("old", TALLOW_API=0, register_backends=registering("old"))])
    assert "speaks plugin API 0, this Tallow speaks 1" in found.infos[0].error
    assert "old" not in found.tables["backend"]


def test_a_misspelt_hook_is_an_error():
    @hook
    def register_backend(register):
        register("x", object)

    found = PluginHost([plugin("misspelt", register_backend=register_backend)])
    found.complete()
    assert "register_backend" in found.infos[0].error


def test_a_hook_with_other_arguments_is_an_error():
    @hook
    def register_commands(register, context):
        register(context)

    found = PluginHost(
        [plugin("more", register_backends=registering("more"), register_commands=register_commands)]
    )
    found.complete()
    assert "register_commands" in found.infos[0].error and not found.tables["backend"]


def test_a_function_without_the_mark_is_no_hook():
    found = PluginHost([plugin("plain", register_backends=lambda register: register("plain", object))])
    found.complete()
    assert not found.tables["backend"] and found.infos[0].error is None


def test_a_hook_that_fails_registers_nothing():
    @hook
    def register_importers(register):
        raise RuntimeError("no luck")

    found = PluginHost(
        [plugin("half", register_backends=registering("half"), register_importers=register_importers)]
    )
    assert "no luck" in found.infos[0].error
    assert "half" not in found.tables["backend"]


def test_two_plugins_with_one_name_are_refused_when_it_is_used():
    found = PluginHost([])
    found.register("backend", "same", object, "first-package")
    found.register("backend", "same", object, "second-package")
    with pytest.raises(PluginError, match="first-package and second-package"):
        found.get("backend", "same")


def test_the_environment_chooses_plugins(monkeypatch):
    monkeypatch.setenv("TALLOW_PLUGINS", "fake")
    assert [i.name for i in PluginHost().infos] == ["fake"]
    monkeypatch.setenv("TALLOW_PLUGINS", "")
    assert PluginHost().infos == []


def test_the_interpreting_backend_runs_a_model():
    b = Builder()
    x, w = b.input("x", "f32", ["n", 3]), b.input("w", "f32", [3, 2])
    total = b.reduce(b.mul(b.reshape(x, shape=(*x.shape, 1)), w), function="add", axes=(1,), keepdims=False)
    graph = b.finish({"y": b.softmax(b.relu(total), axis=1)})
    inputs = {"x": np.random.default_rng(0).normal(size=(4, 3)).astype("f4"), "w": np.ones((3, 2), "f4")}
    got, want = tallow.compile(graph, "fake").run(inputs), tallow.evaluate(graph, inputs)
    np.testing.assert_allclose(got["y"], want["y"], rtol=1e-6)


def test_operators_are_registered_when_something_is_compiled():
    @hook
    def register_ops(register):
        register(replace(table.op("relu"), name="later.relu"))

    found = PluginHost([plugin("later", register_ops=register_ops)])
    assert "later.relu" not in table.OPS
    try:
        found.complete()
        found.complete()
        assert "later.relu" in table.OPS
        assert found.infos[0].provides == ["operator later.relu"]
    finally:
        del table.OPS["later.relu"]


def test_a_plugin_whose_operators_fail_loses_the_rest():
    @hook
    def register_ops(register):
        register(table.op("relu"))
        raise RuntimeError("no luck with operators")

    both = [
        plugin("half", register_backends=registering("half"), register_ops=register_ops),
        plugin("whole", register_backends=registering("whole")),
    ]
    found = PluginHost(both)
    assert found.get("backend", "half") is not None
    found.complete()
    assert found.infos[0].error == "RuntimeError: no luck with operators" and not found.infos[0].provides
    assert set(found.tables["backend"]) == {"whole"}
    with pytest.raises(Unavailable, match="'half' is installed .* not usable: RuntimeError: no luck"):
        found.get("backend", "half")
