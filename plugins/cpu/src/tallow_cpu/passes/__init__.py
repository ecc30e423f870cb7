"""Graph passes for CPU targets: packed weights and channel-blocked layouts."""

PASSES: tuple = ()
