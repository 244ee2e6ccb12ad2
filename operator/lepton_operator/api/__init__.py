"""The API of group lepton.ai: pydantic models, from which the CRDs are generated."""
