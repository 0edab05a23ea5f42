"""The Hugging Face Hub: refs, reading by ranges, publishing. The only room that imports huggingface_hub.

Importing it costs nothing: the client is loaded by the first function that talks to a server or to its cache.
"""

from __future__ import annotations
