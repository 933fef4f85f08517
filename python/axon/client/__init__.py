"""Clients for any server of the Open Inference Protocol v2: Axon, Triton, KServe's runtimes.

```python
from axon import Client

with Client("http://localhost:8000") as client:
    outputs = client.infer("model", {"x": array})
```

`AsyncClient` is the same for asyncio. Nothing here needs the engine: the native module is not imported.
"""

from __future__ import annotations

from axon.client._call import SequenceStep
from axon.client._client import AsyncClient, Client

__all__ = ["AsyncClient", "Client", "SequenceStep"]
