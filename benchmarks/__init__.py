"""flowstage beside its peers: the workloads, the peers' programs and the figures without a peer."""
