"""Property tests draw the same examples on every run and know no deadline: the machine is shared."""

from hypothesis import settings

settings.register_profile("undiffuse", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("undiffuse")
