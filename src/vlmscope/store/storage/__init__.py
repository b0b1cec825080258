"""Where bytes are kept: a file system or an object store.

- ``paths``: where a run is stored, and which names may be used inside it
- ``object_store``: reads by ranges, writes of whole objects
- ``atomic``: publishing a file, all of it or none of it
- ``removal``: removing, moving and replacing plain child names, never through a link
- ``locks``: who may write a run
"""
