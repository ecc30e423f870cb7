"""A plugin that fails to import."""

import a_driver_that_is_not_installed  # noqa: F401
