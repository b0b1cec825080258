"""Files in a file system or an object store.

- ``paths``: the location of a run, and the names that may be used inside it
- ``object_store``: reads by ranges, writes of whole objects
- ``atomic``: publishing a file completely or not at all
- ``removal``: removing, moving and replacing plain child names, never through a link
- ``locks``: which processes may write a run
"""
