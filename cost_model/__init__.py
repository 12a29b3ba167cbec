"""What a mapping costs: reuse, analytical, learned and simulated."""
