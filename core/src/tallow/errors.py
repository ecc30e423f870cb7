"""The errors that users see: each says what was expected, what came, where, and what to do next."""


class TallowError(Exception):
    """Base of every error that Tallow raises on purpose."""


class ImportFailed(TallowError):
    """A model file cannot be read, or uses something that Tallow does not support."""


class NotAModel(ImportFailed):
    """A file is of another format than it should be, or truncated or damaged."""


class GraphError(TallowError):
    """A graph is built or edited against the rules of its operators."""


class VerifyError(TallowError):
    """A graph, kernel or program is malformed: a fault of a pass, a lowering or a hand-written text."""


class CompileError(TallowError):
    """A backend refuses or fails to compile; carries numbered source and the driver's log."""


class InputError(TallowError):
    """Arrays given to an executable do not fit its inputs."""


class ArtifactError(TallowError):
    """A `.tallow` file is damaged, too new, or made for another target."""


class Unavailable(TallowError):
    """A backend, device or optional package is not usable here; says what to install."""


class PluginError(TallowError):
    """Two plugins claim one name, or a plugin speaks another API version."""
