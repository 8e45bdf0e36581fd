"""Without the extra ``client`` there is nothing to ask a server, and no schema of Triton's, with."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("tritonclient") and find_spec("grpc") else ["test_served.py"]
