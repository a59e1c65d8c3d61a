"""Bodies that schemathesis does not know how to write."""

import json

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def ndjson(_context: object, value: object) -> bytes:
    """Each item of a list on a line of its own; text as it is."""
    if isinstance(value, str):
        return value.encode(errors="surrogatepass")
    lines = value if isinstance(value, list) else [value]
    return "\n".join(json.dumps(line) for line in lines).encode()
