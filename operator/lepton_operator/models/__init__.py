"""The decisions about a LeptonModel: the next step, what passed, what is served."""
