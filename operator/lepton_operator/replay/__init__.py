"""What the law would have done for a service, and why: `lepton-operator explain`."""
