//! Sans-IO SWIM membership: probes, indirect probes, suspicion, incarnations and dissemination. It produces evidence, never decisions.
