"""The decisions about an InferenceService: the version, its pods, and their replacement."""
