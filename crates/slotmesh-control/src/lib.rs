//! Pure control plane: commands, the replicated cluster state, the placement planner, leases, founding and the failover decision.
