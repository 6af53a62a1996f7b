"""What makes a run survive kills: its folder, units, attempts, lease, session."""
