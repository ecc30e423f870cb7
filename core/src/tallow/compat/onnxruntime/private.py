"""Names that onnxruntime's sessions keep to themselves, and programs read all the same."""

from __future__ import annotations

from tallow.compat.onnxruntime.providers import HOST, provider_of


class PrivateNames:
    """`_sess` is the session itself: there is no other object below it."""

    _sess = property(lambda session: session)
    _inputs_meta = property(lambda session: session.get_inputs())
    _outputs_meta = property(lambda session: session.get_outputs())
    _overridable_initializers = property(lambda session: session.get_overridable_initializers())
    _model_meta = property(lambda session: session.get_modelmeta())
    _model_path = property(lambda session: session._source.path)
    _model_bytes = property(lambda session: session._source.given if session._model_path is None else None)
    _profiling_start_time_ns = property(lambda session: session.get_profiling_start_time_ns())
    _fallback_providers = property(lambda session: [provider_of(HOST)])
