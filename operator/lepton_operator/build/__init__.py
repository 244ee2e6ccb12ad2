"""Pure builders: what is recorded and asked in, whole manifests out.

No text templates and no merging of a user's pod: every field is one that we wrote.
"""
